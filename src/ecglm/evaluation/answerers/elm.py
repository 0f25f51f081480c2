"""Our own checkpoints, imported PULSE among them, as answerers: of pictures, or of recordings in a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ecglm import registry
from ecglm.errors import RejectedRecord
from ecglm.evaluation.answerers.base import Reply, Request
from ecglm.evaluation.answerers.pictures import shown_picture
from ecglm.evaluation.controls import REAL, apply_control
from ecglm.evaluation.predict_checks import ModelFacts
from ecglm.models.assistant import Assistant
from ecglm.models.checkpoint import Bundle, from_pretrained
from ecglm.models.generate import generate
from ecglm.prompts.data import EcgSource
from ecglm.prompts.turns import ChatFormat
from ecglm.store.reader import SegmentStore
from ecglm.types import EcgInput, Example


@dataclass(frozen=True)
class ElmAnswerer:
    """A model and the stores that its recordings come from."""

    name: str
    bundle: Bundle
    ecgs: EcgSource
    max_new_tokens: int

    @classmethod
    def load(
        cls, folder: str | Path, *, stores: Sequence[str | Path] = (), max_new_tokens: int = 1024, device: str = "cpu"
    ) -> ElmAnswerer:
        """From a checkpoint folder. Raises what ``from_pretrained`` does, and EcglmError for stores that were prepared
        otherwise than the model's data."""
        bundle = from_pretrained(folder)
        bundle.elm.to(device)
        opened = [SegmentStore(s) for s in stores]
        ModelFacts.of(folder).check_stores(opened)
        return cls(Path(folder).name, bundle, EcgSource(opened, bundle.representation), max_new_tokens)

    def written_by(self, chat: ChatFormat) -> ElmAnswerer:
        """The same model, its talks written in another format."""
        return replace(self, bundle=replace(self.bundle, prompter=replace(self.bundle.prompter, chat=chat)))

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Greedy answers, the whole of the requests in one batch."""
        examples: dict[int, Example] = {}
        replies: dict[int, Reply] = {}
        for number, request in enumerate(requests):
            try:
                shown = self._shown(request)
                examples[number] = self.bundle.prompter.build(request.id, request.turns, shown, generate=True)
            except RejectedRecord as error:
                replies[number] = Reply(None, str(error))
        if examples:
            elm, prompter = self.bundle.elm, self.bundle.prompter
            found = generate(elm, prompter, list(examples.values()), max_new_tokens=self.max_new_tokens)
            for (number, example), made in zip(examples.items(), found, strict=True):
                usage = {"prompt_tokens": len(example.input_ids), "completion_tokens": made["num_tokens"]}
                replies[number] = Reply(made["text"], truncated=made["truncated"], usage=usage)
        return [replies[number] for number in range(len(requests))]

    def _shown(self, request: Request) -> list[EcgInput]:
        if request.record is None:
            assistant = Assistant(self.bundle)
            return [assistant.encode_picture(shown_picture(ref)) for ref in request.pictures]
        segment, rate, hidden = self.ecgs.segment(request.record), self.ecgs.rate(request.record), ""
        if request.control != REAL:
            segment = apply_control(request.control, segment, rate, seed=request.seed, row_id=request.id)
            hidden = registry.get("controls", request.control).hides
        shown = self.bundle.representation(segment, rate)
        return [self.bundle.representation.without(shown, hidden) if hidden else shown]
