"""The tokenize stage: audio in, a sealed token store out. Used with `predict`."""

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from audiolm.checkpoint import load_stage_checkpoint
from audiolm.codec.codecs import rebuild_codec
from audiolm.files import disk_full, found_no_room, set_aside
from audiolm.semantic.gathering import cpu_group
from audiolm.semantic.tokenizer import SemanticTokenizer
from audiolm.stages.base import StageModule
from audiolm.tokens.spec import TokenSpec
from audiolm.tokens.store import TokenStoreWriter, create_store, seal, store_description, written_ids


class TokenizeStage(StageModule):
    """Writes units and codes of every utterance of the manifest to `<root>/tokens`.

    Audio is read at the codec's rate, which is the spec's; a tokenizer of another rate hears it resampled.
    Killed and started again, on any number of processes, it goes on with the utterances that are not there yet. Recordings
    that turn out defective (truncated, vanished, NaN, silent throughout) are listed in `tokens/rejected-*.jsonl` and counted;
    the next start tries them again, and past a share of them it stops. If the whole corpus is away it stops at once.

    Args:
        coarse_levels: Q', how many of the codec's levels the coarse stage will predict.
        codec: the codec's checkpoint; by default `<root>/codec/best.ckpt`.
        tokenizer: the tokenizer's checkpoint; by default `<root>/tokenizer/best.ckpt`.
        max_rejected_share: the share of defective utterances past which nothing is sealed.

    Raises:
        ValueError: if the rates of codec and tokenizer do not fit together, or the codec has fewer than `coarse_levels`.
    """

    stage = "tokenize"

    def __init__(
        self,
        *,
        coarse_levels: int = 4,
        codec: str | None = None,
        tokenizer: str | None = None,
        max_rejected_share: float = 0.01,
        root: str = "checkpoints",
    ) -> None:
        super().__init__(root=root)
        codec_checkpoint = load_stage_checkpoint(codec or self.root / "codec" / "best.ckpt", stage="codec")
        tokenizer_checkpoint = load_stage_checkpoint(
            tokenizer or self.root / "tokenizer" / "best.ckpt", stage="tokenizer"
        )
        self.codec = rebuild_codec(codec_checkpoint)
        self.tokenizer = SemanticTokenizer.from_checkpoint(tokenizer_checkpoint)
        self.spec = TokenSpec(
            sample_rate_hz=self.codec.sample_rate_hz,
            hop_samples=self.codec.hop_samples,
            levels=self.codec.levels,
            codebook_size=self.codec.codebook_size,
            coarse_levels=coarse_levels,
            semantic_rate_hz=self.tokenizer.rate_hz,
            clusters=self.tokenizer.clusters,
        )
        self.made_by = {"codec": codec_checkpoint.digest, "tokenizer": tokenizer_checkpoint.digest}
        self.max_rejected_share = max_rejected_share

    @property
    def folder(self) -> Path:
        """The token store."""
        return self.root / "tokens"

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the audio this stage wants."""
        return self.codec.sample_rate_hz

    def config_dict(self) -> dict[str, Any]:
        """See `StageModule.config_dict`; this stage trains nothing."""
        return self.spec.as_dict()

    def setup(self, stage: str) -> None:
        """Start the store, or continue it; tokens that other checkpoints made are set aside, not mixed."""
        manifest = self.trainer.datamodule.manifest  # type: ignore[attr-defined]
        made_by = {**self.made_by, "manifest": manifest.digest}
        if self.global_rank == 0:
            if (self.folder / "spec.json").exists() and store_description(self.folder) != (self.spec, made_by):
                aside = set_aside(self.folder)
                print(f"{self.folder} was made by other checkpoints or of other audio: moved to {aside}.")
            create_store(self.folder, self.spec, made_by)
            if not (self.folder / "sealed.json").exists():
                self._forget_rejected()
            if not manifest.utterances.without(self.finished_utterances()):
                self._seal()  # killed between the last utterance and the seal: there will be nothing to predict
        self.trainer.strategy.barrier()
        self._writer: TokenStoreWriter | None = None
        self._patient = cpu_group()

    def _forget_rejected(self) -> None:
        """What an earlier start could not read may be repaired, or its disk mounted again."""
        for file in self.folder.glob("rejected-*.jsonl"):
            file.unlink()

    def finished_utterances(self) -> set[str]:
        """Utterances that need no more work: written, or found defective before."""
        return written_ids(self.folder) | self._rejected().keys()

    def _rejected(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for file in sorted(self.folder.glob("rejected-*.jsonl")):
            for line in file.read_text(encoding="utf-8").split("\n")[:-1]:
                row = json.loads(line)
                found[row["id"]] = row["reason"]
        return found

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        """Tokenize one utterance and append it to the store."""
        if (self.folder / "sealed.json").exists():
            return
        utterance = batch.utterance
        if batch.audio is None:
            self._reject(utterance.id, batch.defect)
            return
        with torch.autocast(
            batch.audio.device.type, enabled=False
        ):  # tokens must not depend on the trainer's precision
            units = self.tokenizer.encode(batch.audio, sample_rate_hz=self.sample_rate_hz)[0]
            codes = self.codec.encode(batch.audio)[0]
        if self._writer is None:
            self._writer = TokenStoreWriter(self.folder, name=f"rank{self.global_rank}")
        self._writer.append(
            id=utterance.id,
            speaker=utterance.speaker,
            split=utterance.split,
            true_end=utterance.true_end,
            units=units,
            codes=codes,
        )

    def _reject(self, id_: str, reason: str) -> None:
        path = self.folder / f"rejected-{self.global_rank}.jsonl"
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"id": id_, "reason": reason}) + "\n")
        except OSError as error:
            raise disk_full(path) if found_no_room(error, folder=self.folder) else error from None
        self._require_few(self._rejected())

    def _require_few(self, rejected: dict[str, str]) -> str:
        """Words for the screen, if not too many utterances were defective.

        Raises:
            ValueError: if there were.
        """
        first, of = next(iter(rejected)), len(self.trainer.datamodule.manifest.utterances)  # type: ignore[attr-defined]
        message = (
            f"{len(rejected)} of {of} utterances are defective and were left out, such as {first} "
            f"({rejected[first]}); all are listed in {self.folder}/rejected-*.jsonl."
        )
        if len(rejected) > self.max_rejected_share * of:
            raise ValueError(
                f"{message} That is more than {self.max_rejected_share:.1%}. What was tokenized is kept. Repair the recordings "
                "and run the same command again, or remove them and run `audiolm prepare` again, or allow more with "
                "`max_rejected_share`."
            )
        return message

    def on_predict_end(self) -> None:
        """Seal the store once every process has written its share.

        Raises:
            ValueError: if too many utterances were defective; what was written stays.
        """
        if self._writer is not None:
            self._writer.close()
        if self._patient is not None:  # the others may have hours to go
            dist.barrier(group=self._patient)
        if self.global_rank == 0:
            self._seal()

    def _seal(self) -> None:
        if (self.folder / "sealed.json").exists():
            return
        manifest = self.trainer.datamodule.manifest  # type: ignore[attr-defined]
        every = manifest.utterances
        rejected = self._rejected()
        if rejected:
            print(self._require_few(rejected))
        store = seal(self.folder, expected=every.without(rejected.keys()).ids())
        print(f"Sealed {self.folder}: {len(store)} utterances, {manifest.hours():.2f} hours.")
