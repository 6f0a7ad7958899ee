"""The detokenizer: audio from tokens alone, causal, any prefix of levels; its stage; its place in the evaluation."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from audiolm.checkpoint import load_stage_checkpoint
from audiolm.checksums import sidecar
from audiolm.codec.detokenizer import MADE_BY, Detokenizer, DetokenizerConfig
from audiolm.evaluation.which_codec import load_codec
from audiolm.semantic.tokenizer import SemanticTokenizer

UNITS = DetokenizerConfig(vocabulary=7, levels=1, token_hop_samples=12, channels=2, dim=4, strides=(2, 3))
CODES = DetokenizerConfig(vocabulary=7, levels=3, token_hop_samples=6, channels=2, dim=4, strides=(2, 3))


def test_a_token_lasts_its_samples_and_is_not_heard_before() -> None:
    torch.manual_seed(0)
    detokenizer = Detokenizer(UNITS)
    tokens = torch.tensor([[[1, 2, 3, 4, 5, 6]]])
    changed = tokens.clone()
    changed[0, 0, 4] = 0
    audio, other = detokenizer(tokens), detokenizer(changed)
    assert audio.shape == (1, 6 * 12)
    assert torch.equal(audio[:, : 4 * 12], other[:, : 4 * 12])
    assert not torch.equal(audio[:, 4 * 12 : 5 * 12], other[:, 4 * 12 : 5 * 12])


def test_fewer_active_levels_are_a_prefix_of_the_levels() -> None:
    torch.manual_seed(0)
    detokenizer, tokens = Detokenizer(CODES), torch.randint(0, 7, (2, 3, 5))
    both = detokenizer(tokens, active_levels=torch.tensor([1, 3]))
    torch.testing.assert_close(both[:1], detokenizer(tokens[:1, :1]))
    torch.testing.assert_close(both[1:], detokenizer(tokens[1:]))


def test_tokens_that_are_no_whole_number_of_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="samples, which are no whole number"):
        DetokenizerConfig(vocabulary=7, levels=1, token_hop_samples=640, strides=(3, 5))


LEVELS = {"detokenizer_units": 1, "detokenizer_residual": 3, "detokenizer_codes": 2, "detokenizer_all_codes": 4}


@pytest.mark.parametrize("stage", MADE_BY)
def test_the_stage_trains_and_its_result_is_evaluated_like_a_codec(
    residual_chain: Path, tmp_path: Path, run_stage_of: Callable[..., None], stage: str
) -> None:
    root = Path(shutil.copytree(residual_chain, tmp_path / "chain"))
    run_stage_of(stage, root)
    codec = load_codec(root / stage)
    audio = 0.1 * torch.randn(1, 16001)
    codes = codec.encode(audio)
    assert codes.shape == (1, LEVELS[stage], codec.frames(16001))
    made_by = root / MADE_BY[stage] / "best.ckpt"
    if stage.endswith("codes"):
        assert torch.equal(codes, load_codec(made_by).encode(audio)[:, : codec.levels])
    else:
        checkpoint = load_stage_checkpoint(made_by, stage=MADE_BY[stage])
        tokenizer = SemanticTokenizer.from_checkpoint(checkpoint)
        assert torch.equal(codes, tokenizer.encode_levels(audio))
        assert torch.equal(codec.embed(codes)[0].t(), tokenizer.embed(codes[0]))
    for levels in range(1, codec.levels + 1):
        assert codec.decode(codes[:, :levels]).shape == (1, codes.size(2) * codec.hop_samples)
    assert codec.embed(codes).shape[::2] == codes.shape[::2]
    assert codec.embed(codes.expand(2, -1, -1)).shape[0] == 2
    with pytest.raises(ValueError, match="codes must be 0 to"):
        codec.decode(codes + codec.codebook_size)


def test_a_detokenizer_of_another_codec_is_refused(
    chain: Path, tmp_path: Path, run_stage_of: Callable[..., None]
) -> None:
    root = Path(shutil.copytree(chain, tmp_path / "chain"))
    run_stage_of("detokenizer_codes", root)
    path = root / "codec" / "best.ckpt"
    content = torch.load(path, weights_only=True)
    content["state_dict"]["model.quantizer.codebooks"] += 1
    torch.save(content, path)
    sidecar(path).unlink()
    with pytest.raises(ValueError, match="another codec"):
        load_codec(root / "detokenizer_codes")
