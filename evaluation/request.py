"""What a run is asked to test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attack_utils import PGDConfig, import_autoattack
from errors import InputError
from files.atomic import check_no_run_file, check_writable
from files.names import EVALUATION


@dataclass(frozen=True)
class Request:
    """What a run is asked to test.

    attacked: also measure RA under PGD. asked: --eval_attack was given, not implied by --mode.
    eval_set: ("test" | "cifar10_c" | "adv", path). images: only so many of the split
    (`Loader.some`), in `--evaluate` and in the tests beyond SA and RA.
    """

    attacked: bool
    asked: bool = False
    autoattack: bool = False
    check_masking: bool = False
    masking_source: str | None = None
    images: int | None = None
    restarts: int = 1
    random_start: bool = True
    evaluate: bool = False
    eval_set: tuple[str, str] = ("test", "")
    save_adv: str | None = None

    def check_flags(self) -> None:
        """Raise InputError for flags that do not go together."""
        kind = self.eval_set[0]
        crafting = self.restarts > 1 or self.save_adv is not None
        if not self.evaluate and (kind != "test" or self.save_adv is not None):
            raise InputError("--eval_set and --save_adv go with --evaluate")
        if kind != "test" and (self.asked or self.further or crafting):
            raise InputError(
                f"--eval_set {kind} is not attacked: leave out --eval_attack, --restarts, "
                "--check_masking and --save_adv"
            )
        if crafting and not self.attacked:
            raise InputError("--restarts and --save_adv need an attack: add --eval_attack pgd")
        if self.restarts > 1 and not self.random_start:
            raise InputError(
                f"--restarts {self.restarts}: without a random start all are the same attack; "
                "leave out --no_test_randinit"
            )
        if self.images is not None and not (self.evaluate or self.further):
            raise InputError(
                "--eval_images goes with --evaluate, --eval_attack autoattack or --check_masking"
            )
        if self.masking_source is not None and not self.check_masking:
            raise InputError("--masking_source goes with --check_masking")

    def check_inputs(self) -> None:
        """Raise InputError for what a test would lack, hours from now."""
        if self.masking_source and not Path(self.masking_source).is_file():
            raise InputError(f"--masking_source {self.masking_source}: no such file")
        if self.autoattack:
            import_autoattack()

    def ra_by(self, attack: PGDConfig) -> str | None:
        """Name in words what RA on the test split is measured by; None where it is not."""
        times = f", worst of {self.restarts} runs" if self.restarts > 1 else ""
        return f"{attack}{times}" if self.attacked else None

    def recorded(self) -> dict[str, Any]:
        """What `eval.json` says of it, so that another request is told from this one."""
        said = ("attacked", "autoattack", "check_masking", "masking_source", "images", "restarts")
        return {name: getattr(self, name) for name in said}

    def check_places(self, save_dir: Path) -> None:
        """Raise InputError where what `--evaluate` finds could not be written, hours from now."""
        check_writable(save_dir / EVALUATION, f"--save_dir {save_dir}")
        if self.save_adv is not None:
            if str(self.save_adv).endswith(".safetensors"):
                raise InputError(
                    f"--save_adv {self.save_adv}: is a PyTorch file; name it like a.pt"
                )
            check_writable(self.save_adv, "--save_adv")
            check_no_run_file(self.save_adv, "--save_adv")

    @property
    def further(self) -> bool:
        """Whether there is more to test than SA and RA."""
        return self.autoattack or self.check_masking
