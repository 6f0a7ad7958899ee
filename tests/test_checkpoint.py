import pickle
from pathlib import Path

import pytest
import torch

from audiolm.checkpoint import HEADER, StageCheckpoint, header, load_stage_checkpoint


def saved(path: Path, **change: object) -> Path:
    content = {
        "state_dict": {"model.weight": torch.ones(2), "discriminators.weight": torch.zeros(1)},
        "global_step": 7,
        HEADER: header("codec", {"channels": 8}, {"manifest": "m"}),
    }
    torch.save({**content, **change}, path)
    return path


def test_a_checkpoint_gives_configuration_and_the_pure_modules_weights(tmp_path: Path) -> None:
    checkpoint = load_stage_checkpoint(saved(tmp_path / "best.ckpt"), stage="codec")
    assert checkpoint.config == {"channels": 8}
    assert checkpoint.sources == {"manifest": "m"}
    assert list(checkpoint.weights) == ["weight"]
    assert checkpoint.step == 7


def test_the_digest_changes_with_any_weight_or_setting_and_with_nothing_else() -> None:
    one = StageCheckpoint("codec", {"a": 1, "b": [2]}, {"x": torch.ones(3), "y": torch.tensor(2)}, {"s": "1"}, 5)
    same = StageCheckpoint("codec", {"b": [2], "a": 1}, {"y": torch.tensor(2), "x": torch.ones(3)})
    other_weight = StageCheckpoint("codec", one.config, {"x": torch.tensor([1, 1, 1.0001]), "y": torch.tensor(2)})
    other_setting = StageCheckpoint("codec", {"a": 1, "b": [3]}, one.weights)
    assert one.digest == same.digest
    assert len({one.digest, other_weight.digest, other_setting.digest}) == 3


def test_a_missing_checkpoint_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"make codec.*lightning fit -c stages/codec.yaml"):
        load_stage_checkpoint(tmp_path / "best.ckpt", stage="codec")


def test_damaged_foreign_and_other_stages_checkpoints_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "best.ckpt")
    with pytest.raises(ValueError, match="of the codec stage, where one of the fine stage"):
        load_stage_checkpoint(path, stage="fine")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be read"):
        load_stage_checkpoint(path, stage="codec")
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match="no `audiolm` header"):
        load_stage_checkpoint(path, stage="codec")


class Malicious:
    def __reduce__(self) -> tuple:
        return (Path.write_text, (Path("ran.txt"), "code ran"))


def test_no_code_from_a_checkpoint_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, HEADER: Malicious()}, tmp_path / "a.ckpt")
    (tmp_path / "b.ckpt").write_bytes(pickle.dumps(Malicious()))
    for name in ("a.ckpt", "b.ckpt"):
        with pytest.raises(ValueError, match="cannot be read"):
            load_stage_checkpoint(tmp_path / name, stage="codec")
    assert not (tmp_path / "ran.txt").exists()
