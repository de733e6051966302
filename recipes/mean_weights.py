r"""The mean of two networks' weights, of stages of one training.

    python recipes/mean_weights.py FIRST SECOND --share 0.6 --output WEIGHTS

``share`` is the second's. What a later stage has learned and what it has forgotten lie on the way
from one to the other (Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022). Numbers
that are no floats, and all that is said of the weights, are the second's.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from crispseg.models.weights import LoadedModel, load_model, save_weights
from crispseg.types import InputError


def main() -> None:
    """Parse the command line, read both, write their mean."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="of the second, 0 to 1")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    if not 0 <= options.share <= 1:
        parser.error("--share must lie in 0..1")
    try:
        model = mean_of(load_model(options.first), load_model(options.second), options.share)
        known = {
            k: v for k, v in model.metadata.items() if k not in ("architecture", "mean", "std")
        }
        save_weights(
            options.output,
            model.module,
            architecture=model.architecture,
            mean=model.mean,
            std=model.std,
            metadata=known | {"share_of_last_stage": str(options.share)},
        )
    except InputError as error:
        sys.exit(f"error: {error}")


def mean_of(first: LoadedModel, second: LoadedModel, share: float) -> LoadedModel:
    """``second`` with weights (1 - share) * first + share * second; it is changed in place.

    Raises:
        InputError: networks of different kinds.
    """
    alike = ("architecture", "mean", "std")
    if any(getattr(first, name) != getattr(second, name) for name in alike):
        raise InputError(f"{first.source} and {second.source} are no stages of one network")
    others = first.module.state_dict()
    for name, values in second.module.state_dict().items():
        if values.is_floating_point():
            values.copy_((1 - share) * others[name] + share * values)
    return second


if __name__ == "__main__":
    main()
