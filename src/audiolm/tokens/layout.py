"""StageLayout: how units and codes become the token sequence of a stage, and back. The one home of every id."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Tensor

from audiolm.tokens.spec import TokenSpec

Stage = Literal["semantic", "coarse", "fine", "acoustic"]


def remove_repeats(units: Tensor) -> Tensor:
    """Keep the first of every run of equal units: (n,) -> (m,), m <= n.

    Source: AudioLM, section III-C: consecutive repetitions of semantic tokens are removed in the first two stages.
    """
    return torch.unique_consecutive(units)


@dataclass(frozen=True)
class TokenSequence:
    """One training example. `phases` says which legal range a target belongs to; -1 carries no loss (conditioning)."""

    inputs: Tensor  # (tokens,) int64
    targets: Tensor  # (tokens,) int64: the inputs, one position later
    phases: Tensor  # (tokens,) int64


@dataclass(frozen=True)
class TokenBatch:
    """Sequences side by side, padded on the right, where causal attention lets nothing be disturbed by it."""

    inputs: Tensor  # (batch, tokens) int64
    targets: Tensor  # (batch, tokens) int64
    phases: Tensor  # (batch, tokens) int64; -1 for conditioning and padding
    lengths: Tensor  # (batch,) int64: tokens of each row before padding
    step_targets: Tensor  # () int64: targets that carry loss in the whole step that this batch is a part of

    @property
    def counted(self) -> Tensor:
        """(batch, tokens) bool: the targets that carry loss."""
        return self.phases >= 0

    @property
    def padded(self) -> Tensor:
        """Number of positions that are padding, a scalar int64 on the batch's device."""
        return self.inputs.numel() - self.lengths.sum()

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "TokenBatch":
        """The same batch on another device."""
        return TokenBatch(*(tensor.to(device, non_blocking=non_blocking) for tensor in self._tensors()))

    def pin_memory(self) -> "TokenBatch":
        """The same batch in page-locked memory (a DataLoader with `pin_memory=True` calls this)."""
        return TokenBatch(*(tensor.pin_memory() for tensor in self._tensors()))

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.inputs, self.targets, self.phases, self.lengths, self.step_targets


def collate(sequences: Sequence[TokenSequence], *, step_targets: int | None = None) -> TokenBatch:
    """Pad sequences on the right to the longest of them.

    Args:
        step_targets: see `TokenBatch`; by default those of these sequences.

    Raises:
        ValueError: if there are none.
    """
    if not sequences:
        raise ValueError("a batch needs at least one sequence, got none: is the split empty?")

    def pad(rows: list[Tensor], *, value: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

    phases = pad([sequence.phases for sequence in sequences], value=-1)
    return TokenBatch(
        inputs=pad([sequence.inputs for sequence in sequences], value=0),
        targets=pad([sequence.targets for sequence in sequences], value=0),
        phases=phases,
        lengths=torch.tensor([len(sequence.inputs) for sequence in sequences]),
        step_targets=(phases >= 0).sum() if step_targets is None else torch.tensor(step_targets),
    )


@dataclass(frozen=True)
class StageLayout:
    """The token sequence of one stage, its ids, and which ids may come next.

    Each stage repeats a cycle of `phases`: the semantic stage has one, the acoustic stages one per level they predict.
    In a phase only one contiguous range of ids is legal (`legal_range`), and only that slice of the head is computed:

        semantic  units [0, K), end K, begin K+1                    begin z_1 z_2 ... [end]
        coarse    units [0, K), separator K, end K+1,               z_1 z_2 ... separator y_1^1 ... y_T^Q' [end]
                  code c of level q -> K + 2 + q N + c
        fine      code c of level q -> q N + c, separator Q N       y_1^1 ... y_T^Q' separator y_1^Q'+1 ... y_T^Q
        acoustic  begin 0, end 1, code c of level q -> 2 + q N + c  begin y_1^1 ... y_T^Q' [end]

    The acoustic stage is the baseline that has no units: the coarse stage without its conditioning. It takes the place of the
    semantic and the coarse stage. The paper's ablation is on piano, where Q' is all levels; for speech, of which the paper does
    not tell the like, it predicts the coarse levels too and the fine stage adds the rest.

    Units lose their repeats, so in the semantic stage the previous unit is illegal. The end token stands only at true
    ends of utterances. Codes are flattened time first, levels inside (AudioLM, section III-C).

    Raises:
        ValueError: for an unknown stage, or a fine stage of a codec whose levels are all coarse.
    """

    spec: TokenSpec
    stage: Stage

    def __post_init__(self) -> None:
        if self.stage not in get_args(Stage):
            raise ValueError(f"stage must be semantic, coarse, fine or acoustic, got {self.stage!r}")
        if self.stage == "fine" and not self.spec.fine_levels:
            raise ValueError(
                f"there is no fine stage: all {self.spec.levels} levels are coarse. Leave the stage out, or set "
                "coarse_levels lower."
            )

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        spec = self.spec
        return {
            "semantic": spec.clusters + 2,
            "coarse": spec.clusters + 2 + spec.coarse_levels * spec.codebook_size,
            "fine": spec.levels * spec.codebook_size + 1,
            "acoustic": 2 + spec.coarse_levels * spec.codebook_size,
        }[self.stage]

    def require_vocabulary(self, ids: int) -> None:
        """Raise ValueError unless a model of so many ids was made for this layout."""
        if ids != self.vocabulary:
            raise ValueError(
                f"the model has {ids} ids and the {self.stage} layout {self.vocabulary}: they belong to different token specs "
                "or stages"
            )

    @property
    def phases(self) -> int:
        """Targets in one cycle: 1 unit, or one code for each level that the stage predicts."""
        return {"semantic": 1, "fine": self.spec.fine_levels}.get(self.stage, self.spec.coarse_levels)

    @property
    def end_id(self) -> int | None:
        """The end token. A fine chunk ends where its coarse codes end, so that stage has none."""
        return {"semantic": self.spec.clusters, "coarse": self.spec.clusters + 1, "fine": None, "acoustic": 1}[
            self.stage
        ]

    @property
    def start_id(self) -> int:
        """The token after which targets begin: the separator after conditioning; `begin` in the stages without."""
        spec = self.spec
        return {
            "semantic": spec.clusters + 1,
            "coarse": spec.clusters,
            "fine": spec.levels * spec.codebook_size,
            "acoustic": 0,
        }[self.stage]

    @property
    def repeats_are_illegal(self) -> bool:
        """Whether the previous target may not come again."""
        return self.stage == "semantic"

    def legal_range(self, phase: int) -> tuple[int, int]:
        """The ids [start, stop) that may come in a phase, the end token included (see also `allowed`)."""
        if not 0 <= phase < self.phases:
            raise ValueError(f"phase must be 0 to {self.phases - 1} in the {self.stage} stage, got {phase}")
        if self.stage == "semantic":
            return 0, self.spec.clusters + 1
        start = self._first_code_id(self._first_level + phase)
        return start - (self.end_id is not None and phase == 0), start + self.spec.codebook_size

    def illegal(self, previous: Tensor) -> Tensor | None:
        """The one id that may not come after `previous` (rows,): (rows,), or None in a stage without such.

        After the start token it is that token, which no `legal_range` holds.
        """
        return previous if self.repeats_are_illegal else None

    def allowed(self, phase: int, previous: Tensor, *, may_end: bool) -> Tensor:
        """Which ids of `legal_range(phase)` are legal after `previous` (rows,): bool (rows, stop - start)."""
        start, stop = self.legal_range(phase)
        ids = torch.arange(start, stop, device=previous.device)
        allowed = torch.ones(len(previous), stop - start, dtype=torch.bool, device=previous.device)
        if (illegal := self.illegal(previous)) is not None:
            allowed &= ids != illegal[:, None]
        if self.end_id is not None and not may_end:
            allowed &= ids != self.end_id
        return allowed

    def sequence(self, units: Tensor | None, codes: Tensor | None, *, true_end: bool) -> TokenSequence:
        """Lay out one crop for training. A stage ignores the stream that it does not use.

        Args:
            units: (semantic frames,) with repeats, in [0, K).
            codes: (levels, frames) in [0, N), coarsest level first; the coarse stage reads only its own levels.
            true_end: whether the crop's last frame is the utterance's last, so that an end token follows it.

        Returns:
            Inputs, targets and phases (tokens,) int64.

        Raises:
            ValueError: if a stream is missing, empty, of another shape or out of range.
        """
        if self.stage == "semantic":
            prefix, flat = self.prefix(None), remove_repeats(self._checked_units(units))
        elif self.stage != "fine":
            prefix, flat = self.prefix(units), self._flatten(self._checked_codes(codes), first=0, stop=self.phases)
        else:
            codes = self._checked_codes(codes)
            prefix = self.prefix(None, codes[: self._first_level])
            flat = self._flatten(codes, first=self._first_level, stop=self.spec.levels)
        end = [self.end_id] if true_end and self.end_id is not None else []
        targets = torch.cat([flat, flat.new_tensor(end)])
        if not len(flat):
            raise ValueError(f"the crop holds nothing for the {self.stage} stage to predict: it has no frames")
        tokens = torch.cat([prefix, targets])
        phases = torch.full_like(tokens[1:], -1)
        phases[len(prefix) - 1 :] = torch.arange(len(targets)) % self.phases
        return TokenSequence(inputs=tokens[:-1], targets=tokens[1:], phases=phases)

    def size(self, units: Tensor | None, frames: int, *, true_end: bool) -> tuple[int, int]:
        """Tokens and targets of the `sequence` of a crop, without its codes.

        Args:
            units: (semantic frames,) with repeats; a stage that reads none (`reads_units`) ignores them.
            frames: code frames.
            true_end: as in `sequence`.
        """
        units_left = len(remove_repeats(units)) if units is not None and self.reads_units else 0
        if self.stage == "semantic":
            prefix, flat = 1, units_left
        else:
            prefix = 1 + units_left + frames * self._first_level
            flat = frames * self.phases
        targets = flat + (true_end and self.end_id is not None)
        return prefix + targets - 1, targets

    @property
    def reads_units(self) -> bool:
        """Whether units are a part of the sequence."""
        return self.stage in ("semantic", "coarse")

    @property
    def reads_codes(self) -> bool:
        """Whether codes are a part of the sequence."""
        return self.stage != "semantic"

    def prefix(self, units: Tensor | None, known_codes: Tensor | None = None) -> Tensor:
        """The tokens that generation starts from; `known_targets` counts the targets already among them.

        Args:
            units: semantic: units to continue, or None; coarse: the units to speak (both with or without repeats).
            known_codes: coarse and acoustic: codes of the prompt (Q', frames), or None; fine: the coarse codes (Q', frames).

        Returns:
            (tokens,) int64, at least one.

        Raises:
            ValueError: if a needed stream is missing, of another shape or out of range.
        """
        start = torch.tensor([self.start_id])
        if self.stage == "semantic":
            return start if units is None else torch.cat([start, remove_repeats(self._checked_units(units))])
        if self.stage == "fine":
            return torch.cat([self._flatten(self._checked_codes(known_codes), first=0, stop=self._first_level), start])
        known = start[:0]
        if known_codes is not None:
            known = self._flatten(self._checked_codes(known_codes), first=0, stop=self.phases)
        spoken = remove_repeats(self._checked_units(units)) if self.reads_units else start[:0]
        return torch.cat([spoken, start, known])

    def known_targets(self, prefix: Tensor) -> int:
        """Targets already in a prefix; the next token's phase is this number modulo `phases`."""
        starts = (prefix == self.start_id).nonzero()
        if len(starts) != 1:
            raise ValueError(f"a {self.stage} prefix holds its start token once, this one {len(starts)} times")
        return len(prefix) - 1 - int(starts.item())

    def parse(self, targets: Tensor) -> tuple[Tensor, bool]:
        """Read targets back; the exact inverse of `sequence` (but for the repeats that it removed).

        Args:
            targets: (tokens,) int64 from phase 0 on: known ones and generated ones.

        Returns:
            Semantic: units (n,); the others: codes (levels of the stage, frames). And whether it ended.

        Raises:
            ValueError: for an id that is illegal where it stands, or a last frame with levels missing.
        """
        ended = self.end_id is not None and len(targets) > 0 and bool(targets[-1] == self.end_id)
        body = targets[:-1] if ended else targets
        if len(body) % self.phases:
            raise ValueError(
                f"{len(body)} tokens do not fill whole frames of {self.phases} levels. Generation probably stopped "
                "inside a frame: ask for a multiple of the levels, or cut the tail."
            )
        if self.stage == "semantic":
            codes, bound = body[None], self.spec.clusters
        else:
            first_ids = torch.tensor([self._first_code_id(self._first_level + p) for p in range(self.phases)])
            codes = rearrange(body, "(frames levels) -> levels frames", levels=self.phases)
            codes, bound = codes - first_ids.to(codes)[:, None], self.spec.codebook_size
        illegal = (codes < 0) | (codes >= bound)
        if self.repeats_are_illegal:
            illegal[:, 1:] |= codes[:, 1:] == codes[:, :-1]
        if illegal.any():
            level, frame = illegal.nonzero()[0].tolist()
            at = frame * self.phases + level
            raise ValueError(
                f"token {at} is id {int(body[at])}, which the {self.stage} layout forbids there (phase {level}). "
                "The targets were made with another TokenSpec, do not start at phase 0, or go on after an end token."
            )
        return (codes[0] if self.stage == "semantic" else codes), ended

    @property
    def _first_level(self) -> int:
        return self.spec.coarse_levels if self.stage == "fine" else 0

    def _first_code_id(self, level: int) -> int:
        return {"coarse": self.spec.clusters + 2, "acoustic": 2}.get(self.stage, 0) + level * self.spec.codebook_size

    def _flatten(self, codes: Tensor, *, first: int, stop: int) -> Tensor:
        if len(codes) < stop:
            raise ValueError(f"the {self.stage} stage needs codes of {stop} levels here, got {len(codes)}")
        first_ids = torch.tensor([self._first_code_id(level) for level in range(first, stop)])
        return rearrange(codes[first:stop] + first_ids[:, None], "levels frames -> (frames levels)")

    def _checked_units(self, units: Tensor | None) -> Tensor:
        return self._checked(units, name="units", dimensions=1, bound=self.spec.clusters)

    def _checked_codes(self, codes: Tensor | None) -> Tensor:
        return self._checked(codes, name="codes", dimensions=2, bound=self.spec.codebook_size)

    def _checked(self, tokens: Tensor | None, *, name: str, dimensions: int, bound: int) -> Tensor:
        if tokens is None:
            raise ValueError(f"the {self.stage} stage needs {name}, got none")
        if tokens.dim() != dimensions:
            raise ValueError(f"{name} must have {dimensions} dimension(s), got the shape {tuple(tokens.shape)}")
        tokens = tokens.long().cpu()
        if tokens.numel() and (int(tokens.min()) < 0 or int(tokens.max()) >= bound):
            raise ValueError(
                f"{name} must lie in [0, {bound}), got {int(tokens.min())} to {int(tokens.max())}: they come from a "
                "tokenizer or codec of another size than this TokenSpec."
            )
        return tokens
