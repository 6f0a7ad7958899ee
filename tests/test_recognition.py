"""Letters, transcripts and our recogniser: CTC by hand, padding that has no influence, files that cannot be used."""

import math
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tones_and_noise, write_tiny_checkpoint

from audiolm.recognition.alphabet import BLANK, LETTERS, decode, encode, frames_needed, spelled
from audiolm.recognition.network import CtcNetwork, HeadConfig, letter_losses
from audiolm.recognition.recogniser import TrainedRecogniser, load_recogniser
from audiolm.recognition.transcripts import find_transcripts, read_transcripts
from audiolm.semantic.conformer import ConformerConfig, ConformerEncoder
from audiolm.semantic.mfcc import MfccEncoder

TINY = ConformerConfig(
    dim=16, contrastive_layers=1, masked_layers=1, heads=2, feed_forward=32, subsampling_channels=2, dropout=0.0
)


def tiny_network(*, upsampling: int = 2) -> CtcNetwork:
    torch.manual_seed(0)
    return CtcNetwork(ConformerEncoder(TINY), HeadConfig(dim=8, layers=2, upsampling=upsampling, dropout=0.0)).eval()


def test_transcripts_are_spelled_in_our_letters() -> None:
    assert spelled("Don’t STOP — it's “café”-time, ") == "don't stop it's cafe time"
    assert spelled(" ' rock ' roll") == "rock roll"
    for text in ("room 101", "...", "говорит"):
        with pytest.raises(ValueError, match="cannot be spelled"):
            spelled(text)


@given(text=st.text(st.sampled_from(LETTERS), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_any_path_of_a_text_decodes_to_it_and_none_is_shorter_than_said(text: str, seed: int) -> None:
    text = " ".join(text.split()) or "a"
    random, ids = torch.Generator().manual_seed(seed), encode(text)
    path: list[int] = []
    for before, number in zip([None, *ids], ids, strict=False):
        blanks = int(torch.randint(2, (), generator=random)) + (before == number)
        path += [BLANK] * blanks + [number] * (1 + int(torch.randint(2, (), generator=random)))
    assert decode(path) == text
    assert len(path) >= frames_needed(ids)


def test_doubled_letters_need_a_blank_between_them() -> None:
    assert frames_needed(encode("hello")) == 6
    assert decode([8, 5, 12, 12, 15]) == "helo"
    assert decode([8, 5, 12, 0, 12, 15]) == "hello"


def test_the_loss_is_that_of_all_paths_added_up_one_by_one() -> None:
    torch.manual_seed(0)
    frames, letters = [4, 3], [2, 1]
    scores = torch.randn(2, 4, len(LETTERS) + 1).mul(3).log_softmax(-1)
    targets = torch.tensor([[1, 1], [2, 0]])
    losses = letter_losses(scores, torch.tensor(frames), targets, torch.tensor(letters))
    for row in range(2):
        said, likelihood = targets[row, : letters[row]].tolist(), 0.0
        for path in product(sorted({BLANK, *said}), repeat=frames[row]):  # others never collapse to it
            if encode(decode(path)) == said:
                likelihood += math.exp(sum(float(scores[row, t, number]) for t, number in enumerate(path)))
        assert float(losses[row]) == pytest.approx(-math.log(likelihood) / letters[row], rel=1e-5)


def test_the_loss_is_infinite_where_letters_do_not_fit() -> None:
    scores = torch.zeros(1, 2, len(LETTERS) + 1).log_softmax(-1)
    assert letter_losses(scores, torch.tensor([2]), torch.tensor([[1, 1]]), torch.tensor([2])).isinf().all()


@pytest.mark.parametrize("upsampling", [1, 2, 3])
def test_what_follows_a_recording_has_no_influence(upsampling: int) -> None:
    network = tiny_network(upsampling=upsampling)
    clips = [tones_and_noise(samples, seed=samples) for samples in (9000, 16000, 4321)]
    audio = torch.full((3, 16000), 0.7)  # not silence: it must be ignored
    for row, clip in zip(audio, clips, strict=True):
        row[: len(clip)] = clip
    together, frames = network(audio, torch.tensor([len(clip) for clip in clips]))
    for row, clip in enumerate(clips):
        alone, count = network(clip[None])
        assert int(count) == int(frames[row]) == network.frames(len(clip)) == alone.shape[1]
        torch.testing.assert_close(together[row, : frames[row]], alone[0], atol=2e-5, rtol=0)  # sums in another order
    texts = network.transcribe(audio, torch.tensor([len(clip) for clip in clips]))
    assert texts == [network.transcribe(clip[None])[0] for clip in clips]


def test_augmentation_that_changes_nothing_is_no_augmentation() -> None:
    network, audio = tiny_network(), torch.stack([tones_and_noise(8000, seed=seed) for seed in range(2)])
    samples = torch.tensor([8000, 5000])
    same, frames = network(audio, samples, change=lambda raw: raw)
    plain, _ = network(audio, samples)
    for row, count in enumerate(frames.tolist()):
        torch.testing.assert_close(same[row, :count], plain[row, :count])
    other, _ = network(audio, samples, change=lambda raw: raw + 1)
    assert not torch.allclose(other, plain)


def test_only_what_is_heard_is_fine_tuned() -> None:
    network = CtcNetwork(ConformerEncoder(TINY, layer=1).requires_grad_(False), HeadConfig(dim=8, layers=1))
    assert not network.train().encoder.training
    network.fine_tune()
    assert network.train().encoder.training
    network(tones_and_noise(8000)[None])[0].sum().backward()
    learning = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert all(network.get_parameter(name).grad is not None for name in learning)
    assert not any(name.startswith("encoder.blocks.1") for name in learning)
    with pytest.raises(ValueError, match="MfccEncoder stays as it is"):
        CtcNetwork(MfccEncoder(), HeadConfig(dim=8)).fine_tune()


def test_a_checkpoint_gives_the_network_back(tmp_path: Path) -> None:
    network, audio = tiny_network(), tones_and_noise(16000)
    write_tiny_checkpoint(tmp_path / "best.ckpt", "asr", network, network.config_dict())
    recogniser = load_recogniser(str(tmp_path))
    assert isinstance(recogniser, TrainedRecogniser)
    assert recogniser.transcribe(audio) == network.transcribe(audio[None])[0]
    write_tiny_checkpoint(tmp_path / "other.ckpt", "asr", network, network.config_dict() | {"letters": "абв"})
    with pytest.raises(ValueError, match="other letters"):
        load_recogniser(str(tmp_path / "other.ckpt"))
    with pytest.raises(FileNotFoundError, match=r"make asr|stages/asr.yaml"):
        load_recogniser(str(tmp_path / "none.ckpt"))


def test_librispeech_transcripts_are_read(tmp_path: Path) -> None:
    (tmp_path / "103" / "1240").mkdir(parents=True)
    (tmp_path / "103" / "1240" / "103-1240.trans.txt").write_text("103-1240-0000 CHAPTER ONE\n\n103-1240-0001 IT  IS\n")
    for transcripts in (find_transcripts(tmp_path), read_transcripts(tmp_path / "103" / "1240" / "103-1240.trans.txt")):
        assert [one.text for one in transcripts.of("103/1240/103-1240-0001.flac")] == ["IT IS"]
        assert transcripts.of("103-1240-0000")[0].text == "CHAPTER ONE"
        assert not transcripts.of("103-1240-0002.flac")


def test_tables_are_read_beside_the_audio_and_above_it(tmp_path: Path) -> None:
    (tmp_path / "unlab" / "a").mkdir(parents=True)
    (tmp_path / "phones.tsv").write_text("file\tphone\nx\tAA\n")
    (tmp_path / "utterances.tsv").write_text('utterance\tspeaker\ttext\n0001\ta\tSAY "NAN"\n0002\tb\tnull\n')
    transcripts = find_transcripts(tmp_path / "unlab")
    assert transcripts.of("a/0001.wav")[0].text == 'SAY "NAN"'
    assert transcripts.of("0002.flac")[0].text == "null"
    (tmp_path / "segments.tsv").write_text(
        "file\tclip\tstart\tend\ttext\nunlab/b/x.flac\ty\t2.5\t4\tsecond\nunlab/b/x.flac\tz\t0\t2\tfirst\n"
    )
    spoken = read_transcripts(tmp_path / "segments.tsv").of("b/x.flac")
    assert [(one.start_seconds, one.end_seconds, one.text) for one in spoken] == [(0, 2, "first"), (2.5, 4, "second")]
    assert not read_transcripts(tmp_path / "segments.tsv").of("c/x.flac")


def test_names_that_two_texts_have_are_refused(tmp_path: Path) -> None:
    table = tmp_path / "utterances.tsv"
    table.write_text("utterance\ttext\na/1\tone\nb/1\ttwo\n")
    transcripts = read_transcripts(table)
    assert transcripts.of("corpus/b/1.wav")[0].text == "two"
    with pytest.raises(ValueError, match=r"1.wav could be a/1 or b/1"):
        transcripts.of("1.wav")
    table.write_text("utterance\ttext\n1\tone\n1.wav\ttwo\n")
    with pytest.raises(ValueError, match=r"'1' has two transcripts.*:2 and in .*:3"):
        read_transcripts(table)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("utterance\ttext\n1\t\n", r":2: a transcript needs a name and a text"),
        ("utterance\ttext\n1\n", r":2: a transcript needs a name and a text"),
        ("file\tstart\tend\ttext\n1\t2\t1\ta\n", r":2: start and end must be seconds"),
        ("file\tstart\tend\ttext\n1\tnan\t1\ta\n", r":2: start and end must be seconds"),
        ("name\twords\n1\tone\n", "is no file of transcripts"),
    ],
)
def test_tables_that_cannot_be_read_say_where(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "t.tsv").write_text(text)
    with pytest.raises(ValueError, match=says):
        read_transcripts(tmp_path / "t.tsv")
    (tmp_path / "t.tsv").unlink()
    for path in (tmp_path, tmp_path / "t.tsv"):
        with pytest.raises(FileNotFoundError, match=r"\.trans\.txt"):
            read_transcripts(path)
    with pytest.raises(FileNotFoundError, match="--transcripts"):
        find_transcripts(tmp_path)
