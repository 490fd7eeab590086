"""Every kind of damage of scripts/bundle-campaign is refused by name."""

from __future__ import annotations

import random
import re
import shutil
from typing import TYPE_CHECKING

import pytest
from bundle_factory import split, write_bundle, write_image

from builder.errors import IntegrityError, UsageError
from builder.publish.bundle.opened import open_bundle
from campaign.bundle_damage import DAMAGES, Damaged, DamageKind

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles, whole and split."""
    root = tmp_path_factory.mktemp("bundles")
    for name, seed in (("own", 1), ("other", 2)):
        image = write_image(
            root / name / "whole", [{"srv/model": random.Random(seed).randbytes(30_000)}, {"srv/a": b"a"}]
        )
        write_bundle(root / name / "whole", image)
        split(root / name / "whole", root / name / "split", 9_000)
    return root


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", DAMAGES, ids=lambda kind: f"{kind.form}: {kind.name}")
def test_damage_is_refused_by_name(
    kind: DamageKind, seed: int, bundles: Path, tmp_path: Path, session: Session
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundles / "own" / kind.form, folder)
    choose = random.Random(f"{kind.name}-{seed}")
    pattern = kind.harm(Damaged(folder=folder, other=bundles / "other" / kind.form, choose=choose))
    with pytest.raises((IntegrityError, UsageError)) as raised, open_bundle(folder, session):
        pass
    assert re.search(pattern, raised.value.message), f"{raised.value.message} does not name {pattern}"
    assert raised.value.where
    assert raised.value.hint
    assert list(session.workspace.bundles.glob("*")) == []
