"""What helps an embedded Aligner to learn which sentences to change: it is asked while it reads them.

When a correction comes to a sentence, its first word already shows whether the sentence stays, but what is wrong with
it stands in the draft behind that word. From the corrections alone a small model learns slowly to look there.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

_SHARE = 2 / 3  # of the layers; the rest are for what the correction makes of it


class EditTagger(nn.Module):
    """Tells from a model's states at a draft's tokens whether their sentences change; needed in training only.

    It looks at states in the middle of the model, so that later layers can use what it made the earlier ones learn.

    Args:
        model: The model that is trained.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.layer = round(model.config.num_hidden_layers * _SHARE)
        self._output = nn.Linear(model.config.hidden_size, 1)
        nn.init.zeros_(self._output.weight)

    def loss(self, states: Tensor, edited: Tensor) -> Tensor:
        """The sum of the losses of the tokens.

        Args:
            states: `[M, H]`, behind `layer` layers.
            edited: `[M]`, 1 where the token's sentence changes, else 0.
        """
        logits = self._output(states).squeeze(-1).float()  # [M]
        return functional.binary_cross_entropy_with_logits(logits, edited, reduction="sum")
