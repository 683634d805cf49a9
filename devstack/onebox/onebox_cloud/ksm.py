# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""Kernel samepage merging: remember the machine's settings, give them back.

The plugin may change any of them while the cloud is up; afterwards they are as they were, and
pages that were merged only because it was switched on are apart again.
"""
from __future__ import annotations

import json
from pathlib import Path

from .state import boot_id, write_atomic

ROOT = Path("/sys/kernel/mm/ksm")
SETTINGS = ("merge_across_nodes", "max_page_sharing", "use_zero_pages", "smart_scan", "advisor_mode",
            "advisor_max_cpu", "advisor_min_pages_to_scan", "advisor_max_pages_to_scan",
            "advisor_target_scan_time", "stable_node_chains_prune_millisecs", "sleep_millisecs", "pages_to_scan",
            "run")


def read(root: Path = ROOT) -> dict[str, str]:
    """Every setting this kernel has; of a choice such as '[none] scan-time' the chosen word."""
    found = {}
    for name in SETTINGS:
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        chosen = [word for word in text.split() if word.startswith("[")]
        found[name] = chosen[0].strip("[]") if chosen else text
    return found


def remember(record: Path, root: Path = ROOT) -> None:
    """Save the settings, unless they are saved already: what is there now may be ours."""
    if saved(record) is None:
        write_atomic(record, json.dumps({"boot": boot_id(), "settings": read(root)}, indent=1))


def saved(record: Path) -> dict[str, str] | None:
    """The settings to return to; None without a record of this boot (a boot resets them by itself)."""
    try:
        data = json.loads(record.read_text())
    except (OSError, ValueError):
        return None
    return data["settings"] if data["boot"] == boot_id() else None


def restore(record: Path, root: Path = ROOT) -> list[str]:
    """Give the settings back and drop the record; to be called when the guests are gone.

    Returns one sentence for each setting that could not be restored.
    """
    wanted = saved(record)
    failures = []
    if wanted is not None:
        shared = (root / "pages_shared").read_text().strip() if wanted else "0"
        if wanted.get("run") == "0" and shared != "0":
            # Unmerging needs KSM; merge_across_nodes and max_page_sharing change only without merged pages.
            (root / "run").write_text("2")
        for name, value in wanted.items():
            try:
                if read(root).get(name) != value:
                    (root / name).write_text(value)
            except OSError as error:
                failures.append(f"{root / name} cannot be set back to {value}: {error}")
    if not failures:
        record.unlink(missing_ok=True)
    return failures
