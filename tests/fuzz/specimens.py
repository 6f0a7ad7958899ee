"""Files of every kind that is read, small enough that thousands can be spoilt and read in minutes."""

import json
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import HuggingFaceStorageWriter

from audiolm.audio import write_audio
from audiolm.checkpoint import HEADER, StageCheckpoint, header
from audiolm.codec.config import SoundStreamConfig
from audiolm.codec.detokenizer import Detokenizer, DetokenizerConfig
from audiolm.evaluation.audio_classifier import AudioClassifier, ClassifierConfig
from audiolm.files import write_json
from audiolm.generator.detector_file import add_detector
from audiolm.manifest import SPLITS, Manifest, Utterance, read_manifest, write_manifest
from audiolm.manifest_columns import write_columns
from audiolm.semantic.conformer import ConformerConfig, ConformerEncoder
from audiolm.sharded_files import VALUES, WEIGHTS
from audiolm.tokens.store import TokenStoreWriter, create_store, seal
from tests.tiny import (
    SPEC,
    tiny_codec,
    tiny_tokenizer,
    tones_and_noise,
    write_tiny_checkpoint,
    write_tiny_generator,
)


def recordings(folder: Path) -> None:
    """Every format: two encodings of wav, and stereo at another rate."""
    audio = tones_and_noise(5000)
    for name in ("a.wav", "b.flac", "c.ogg", "d.mp3", "e.aiff", "f.opus"):
        write_audio(folder / name, audio, sample_rate_hz=16000)
    stereo = np.stack([audio.numpy(), -0.5 * audio.numpy()], axis=1)
    soundfile.write(folder / "g.wav", stereo, 44100, subtype="FLOAT")
    soundfile.write(folder / "h.wav", stereo[:1500], 8000, format="WAVEX", subtype="PCM_24")


def corpus(folder: Path) -> None:
    """Two recordings with voice activity beside them, and the log of a scan that was killed."""
    for name in ("a", "b"):
        write_audio(folder / "speaker" / "book" / f"{name}.flac", tones_and_noise(32000), sample_rate_hz=16000)
        sidecar = {"speaker": "s", "snr": 12.5, "voice_activity": [[0.1, 0.6], [0.9, 1.5], [1.7, 1.9]]}
        write_json(folder / "speaker" / "book" / f"{name}.json", sidecar)


def manifest(folder: Path) -> None:
    """A manifest of nine utterances."""
    utterances = tuple(
        Utterance(f"s{n % 3}/u{n}", f"s{n % 3}/u{n}.flac", f"s{n % 3}", SPLITS[n % 3], 0, 16000 + n, 16000, n > 3, 1e-4)
        for n in range(9)
    )
    write_manifest(Manifest(Path("/corpus"), utterances), folder / "manifest.jsonl")


def parts(folder: Path) -> None:
    """A store of two writers that nobody has sealed."""
    create_store(folder, SPEC, {"codec": "a", "tokenizer": "b", "manifest": "c"})
    random = torch.Generator().manual_seed(0)
    for writer in range(2):
        with TokenStoreWriter(folder, name=f"rank{writer}") as open_writer:
            for number in range(writer, 9, 2):
                open_writer.append(
                    id=f"u{number}",
                    speaker=f"s{number % 3}",
                    split=SPLITS[number % 3],
                    true_end=number > 3,
                    units=torch.randint(0, SPEC.clusters, (5 + number,), generator=random),
                    codes=torch.randint(0, SPEC.codebook_size, (SPEC.levels, 10 + 2 * number), generator=random),
                )


def store(folder: Path) -> None:
    """The same, sealed."""
    parts(folder)
    seal(folder, expected=[f"u{number}" for number in range(9)])


def fit_sizes(folder: Path) -> None:
    """Write into sealed.json the sizes that the parts have now, if it is still such a file."""
    try:
        sealed = json.loads((folder / "sealed.json").read_bytes())
        for part in sealed["parts"]:
            sizes = [(folder / "parts" / f"{part}.{suffix}").stat().st_size for suffix in ("units", "codes")]
            sealed["bytes"][part] = sizes
        (folder / "sealed.json").write_text(json.dumps(sealed))
    except (ValueError, KeyError, TypeError, OSError, RecursionError):
        return


def spec(folder: Path) -> None:
    """The numbers every stage shares."""
    write_json(folder / "spec.json", SPEC.as_dict())


def checkpoints(folder: Path) -> None:
    """One of each kind of module that a later stage rebuilds."""
    codec, tokenizer = tiny_codec(), tiny_tokenizer()
    write_tiny_checkpoint(folder / "codec.ckpt", "codec", codec, codec.config_dict())
    write_tiny_checkpoint(folder / "tokenizer.ckpt", "tokenizer", tokenizer, tokenizer.config_dict())
    sizes = ConformerConfig(16, 1, 1, 2, 32, 3, 2, 8, 0.0)
    encoder = ConformerEncoder(sizes)
    write_tiny_checkpoint(folder / "encoder.ckpt", "encoder", encoder, encoder.config_dict())
    config = DetokenizerConfig(vocabulary=12, levels=1, token_hop_samples=640, channels=2, dim=8)
    write_tiny_checkpoint(folder / "unit-decoder.ckpt", "unit-decoder", Detokenizer(config), config.as_dict())
    assert SoundStreamConfig.from_dict(SoundStreamConfig().as_dict()) == SoundStreamConfig()


def sharded(folder: Path) -> None:
    """A tokenizer's checkpoint as many processes write one: tensors in safetensors, the rest in a file of torch."""
    tokenizer = tiny_tokenizer()
    weights = {f"{WEIGHTS}/model.{name}": value.contiguous() for name, value in tokenizer.state_dict().items()}
    writer = HuggingFaceStorageWriter(str(folder / "best.ckpt"), save_distributed=True)
    dcp.save(dict(weights), storage_writer=writer, no_dist=True)
    head = header("tokenizer", tokenizer.config_dict(), {"manifest": "m"})
    torch.save({"global_step": 7, HEADER: head}, folder / "best.ckpt" / VALUES)


def columns(folder: Path) -> None:
    """A manifest's columns, which only a large one has."""
    manifest(folder)
    utterances = read_manifest(folder / "manifest.jsonl").utterances
    write_columns(
        folder / "manifest.columns", utterances.columns, manifest=folder / "manifest.jsonl", manifest_digest="d"
    )


def arrays(folder: Path) -> None:
    """Centroids and features, as numpy, torch and text write them."""
    centroids = torch.randn(12, 39, generator=torch.Generator().manual_seed(0))
    np.save(folder / "centroids.npy", centroids.numpy())
    torch.save(centroids, folder / "centroids.pt")
    np.save(folder / "features.npy", centroids.numpy())
    torch.save(centroids, folder / "matrix.pt")
    np.savetxt(folder / "words.txt", centroids[:, :4].numpy())


def generator(folder: Path) -> None:
    """A generator."""
    write_tiny_generator(folder)


def acoustic_only(folder: Path) -> None:
    """A generator without units."""
    write_tiny_generator(folder, acoustic_only=True)


def detector(folder: Path) -> None:
    """A generator's detector."""
    model = AudioClassifier(ClassifierConfig(("human", "machine"), channels=(2, 4))).eval()
    checkpoint = StageCheckpoint("detector", model.config_dict(), model.state_dict(), {"generator": "g"}, 7)
    add_detector(folder, checkpoint, generator="g")
    (folder / "README.md").unlink()


def public(folder: Path) -> None:
    """A HuBERT and a DAC of a few thousand parameters, as `save_pretrained` leaves them."""
    from transformers import AutoModel, DacConfig, HubertConfig

    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    convolutions = {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    AutoModel.from_config(HubertConfig(**small, **convolutions)).save_pretrained(folder / "encoder")
    sizes = {
        "encoder_hidden_size": 4,
        "decoder_hidden_size": 32,
        "codebook_size": 16,
        "codebook_dim": 4,
        "n_codebooks": 2,
    }
    ratios = {"downsampling_ratios": [2, 4, 5, 8], "upsampling_ratios": [8, 5, 4, 2], "sampling_rate": 16000}
    AutoModel.from_config(DacConfig(**sizes, **ratios)).save_pretrained(folder / "codec")


def sampling(folder: Path) -> None:
    """How the stages draw."""
    stage = {"temperature": 0.6, "top_k": 5, "top_p": 0.9}
    write_json(folder / "sampling.json", {"semantic": stage, "coarse": {**stage, "top_k": None}, "fine": stage})


def outputs(folder: Path) -> None:
    """A folder of generated audio."""
    settings = {"mode": "continue", "seed": 0, "sampling": {}, "generator": "g"}
    write_json(folder / "settings.json", settings)
    write_json(folder / "a.wav.json", {"id": "a", "prompt": "p", "prompt_start": 0, "prompt_sha256": "x", **settings})
    write_audio(folder / "a.wav", tones_and_noise(2000), sample_rate_hz=16000)


def tables(folder: Path) -> None:
    """An item file and a table of phones."""
    lines = ["#file onset offset #phone prev next speaker"]
    lines += [f"f{n % 2} {0.1 * n:.2f} {0.1 * n + 0.08:.2f} AA B K s{n % 3}" for n in range(12)]
    (folder / "a.item").write_text("\n".join(lines) + "\n")
    rows = ["file\tstart\tend\tphone\tword"] + [f"f\t{0.1 * n:.2f}\t{0.1 * n + 0.1:.2f}\tAA\tword" for n in range(12)]
    (folder / "phones.tsv").write_text("\n".join(rows) + "\n")
