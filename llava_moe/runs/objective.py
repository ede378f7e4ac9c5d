"""What an assembled model gives to the loop: its inputs, its balance loss and its counts."""

from __future__ import annotations

from llava_moe.assemble import Assembled
from llava_moe.train.objective import Objective


def objective_of(assembled: Assembled) -> Objective:
    """What the loop minimises and counts, of an assembled model."""
    attached = assembled.attached
    routed, balanced = attached.is_routed, attached.has_balance_loss
    return Objective(
        inputs_of=assembled.inputs_of,
        load_balance_coef=attached.load_balance_coef,
        auxiliary_loss=(lambda is_real, totals: attached.auxiliary_loss(is_real, "sum", totals)) if balanced else None,
        balance_totals=attached.balance_totals if attached.balances_by_step else None,
        expert_totals=attached.expert_totals if routed else None,
        mark_prompts=attached.mark_prompts if routed else None,
    )
