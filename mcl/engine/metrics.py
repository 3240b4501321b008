"""Accuracy of a supervised model's tiles, level by level."""

from collections.abc import Sequence

from mmengine.evaluator import BaseMetric
from mmpretrain.registry import METRICS


@METRICS.register_module()
class LevelAccuracy(BaseMetric):
    """Share of images whose tile is classified rightly, for each level: 0..1.

    ``top1_p5`` is of images alone, ``top1_p4`` and so on of tiles of those levels,
    from the ``pred_label_p*`` of :meth:`~mcl.models.MCLSupervised.predict`.
    """

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            label = int(sample["gt_label"])
            self.results.append(
                {
                    name.removeprefix("pred_label_"): int(predicted) == label
                    for name, predicted in sample.items()
                    if name.startswith("pred_label_")
                }
            )

    def compute_metrics(self, results: list[dict[str, bool]]) -> dict[str, float]:
        return {
            f"top1_{level}": sum(r[level] for r in results) / len(results)
            for level in results[0]
        }
