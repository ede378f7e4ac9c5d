"""Conditional MixLoRA's forward pass as released (VT-NLP/MixLoRA af5cc3f), for comparison: not for packed rows.

Shape suffixes: B rows, T tokens, D in, O out, E factors, R = r of them chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llava_moe.adapters.core.wide_linear import WideLinear
from llava_moe.adapters.methods.mixlora_gate import FactorChoice, FactorGate


class ReleasedGate(FactorGate):
    """The release's choice (``mixture/selector.py``), under the names of our tensors.

    A row is an example, whatever is packed in it; h is the mean over all of its positions, padding and answer included;
    every call decides again, so each decoded token is routed by itself. Only indices are used, so no gradient reaches
    the routers. The conditional term contracts A's row and W_AB each on its own, R_k = (sum_d A[k, d]) *
    (sum_d W_AB[k, d, :]), where the paper multiplies them.
    """

    def forward(self, x_BTD: Tensor, z_BTE: Tensor, bank: WideLinear) -> tuple[Tensor, ...]:
        """Return the factors that each row reads and writes, [B, R] each."""
        with torch.no_grad():
            h_BD = x_BTD.mean(1)
            logits_A_BE, logits_B_BE = (h_BD @ ifs_ED.to(h_BD.dtype).t() for ifs_ED in (self.ifs_A, self.ifs_B))
            reads_BR = logits_A_BE.topk(self.r, -1).indices
            scores_BE = logits_B_BE
            if self.conditional:
                rows_BR = bank.lora_A.sum(-1)[reads_BR]
                weights_RE = self.cfs.to(bank.lora_A.dtype).sum(-1)
                summed_BE = (rows_BR.unsqueeze(-1) * weights_RE).softmax(-1).sum(1)
                scores_BE = logits_B_BE.softmax(-1) + summed_BE.softmax(-1)
            writes_BR = scores_BE.topk(self.r, -1).indices
            probs_B_BE = scores_BE if self.conditional else logits_B_BE.softmax(-1)
        rows_BT = torch.arange(len(x_BTD), device=x_BTD.device).unsqueeze(1).expand(x_BTD.shape[:2])
        self._keep(FactorChoice.of(logits_A_BE.softmax(-1), probs_B_BE, reads_BR, writes_BR), rows_BT)
        return reads_BR, writes_BR


class ReleasedLinear(WideLinear):
    """y = W x + s * dropout(x) dW^T with dW = B_sel A_sel built for every row, [B, D, O] numbers (``cmoa_lora.py``)."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return y [B, T, O]."""
        self.source = None
        assert isinstance(self.gate, ReleasedGate)
        reads_BR, writes_BR = self.gate(x_BTD, x_BTD, self)
        y_BTO = self.base(x_BTD)
        a_BTD = x_BTD.to(self.lora_A.dtype)
        a_BTD = a_BTD if self.dropout is None else self.dropout(a_BTD)
        delta_BDO = self.lora_A[reads_BR].transpose(1, 2) @ self.lora_B.t()[writes_BR]
        return y_BTO + (a_BTD @ delta_BDO * self.scale).to(y_BTO.dtype)
