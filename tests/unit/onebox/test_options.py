# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""What `onebox up` accepts, and what it says about the rest."""
from __future__ import annotations

import json

import pytest
from onebox_cloud import cli
from onebox_cloud.options import Options, from_arguments, parse_setting


def parsed(*arguments: str) -> Options:
    return from_arguments(cli.parser().parse_args(["up", *arguments]))


def test_the_plugin_is_in_charge_unless_a_ratio_is_given():
    assert parsed().plugin
    assert parsed("--plugin").plugin
    assert parsed("--ratio", "4.0").ratio == 4.0


def test_a_ratio_and_the_plugin_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        parsed("--ratio", "4", "--plugin")
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "words"), [
    (["--hosts", "0"], "--hosts must be from 1"),
    (["--hosts", "10"], "--hosts must be from 1"),
    (["--host-memory", "100"], "--host-memory must be at least 512"),
    (["--host-swap", "-1"], "--host-swap must be 0 or more"),
    (["--ratio", "0"], "--ratio must be above 0"),
    (["--ratio", "nan"], "--ratio must be above 0"),
])
def test_a_size_that_cannot_work_is_refused_by_name(arguments, words, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["up", *arguments])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_options_survive_the_record():
    options = parsed("--hosts", "3", "--set", "ovc_host.tick=2", "--set", "DEFAULT.debug=true")
    assert Options.from_json(json.loads(json.dumps(options.to_json()))) == options


def test_options_are_described_as_they_are_typed():
    options = parsed("--ratio", "2.5", "--set", "a.b=c")
    assert parsed(*options.describe().split()) == options


def test_a_setting_may_contain_equals_signs_and_dots():
    assert parse_setting("filter_scheduler.x = a=b.c") == ("filter_scheduler", "x", "a=b.c")


@pytest.mark.parametrize("text", ["x=1", "a.b", ".b=1", "a.=1", "a.b c=1", "a.b=1\n[c]"])
def test_a_setting_of_another_form_is_refused_with_an_example(text, capsys):
    with pytest.raises(SystemExit):
        parsed("--set", text)
    assert "SECTION.KEY=VALUE, as in" in capsys.readouterr().err
