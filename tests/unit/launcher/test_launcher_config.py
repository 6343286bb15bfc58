"""launcher.config: what a YAML may say, and how its mistakes are reported."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from launcher.config import (
    ONE_SOURCE,
    OWNED_ENGINE_OPTIONS,
    SAME_PORTS,
    DeployConfig,
    LogsConfig,
    load_config,
    option_name,
    parse_config,
)
from launcher.errors import ConfigError
from launcher.yaml_source import YamlSource

MINIMAL = "model: {folder: checkpoint}\n"


def parse(text: str) -> DeployConfig:
    return parse_config(YamlSource.parse(dedent(text), "deploy.yaml"))


def mistakes(text: str) -> list[str]:
    """The lines of the report, without its heading."""
    with pytest.raises(ConfigError) as caught:
        parse(text)
    heading, *lines = str(caught.value).split("\n  ")
    assert heading == "deploy.yaml:"
    return lines


def test_every_mistake_of_a_file_is_reported_at_once() -> None:
    """One run names each mistake with its line, its path and what to write, in file order."""
    text = """\
        model:
          names: [ok, "not ok"]
          hub_id: no-owner
        engine:
          port: "8000"
          environment:
            THREADS: 4
          options:
            host: 0.0.0.0
        webui:
          prot: 7860
        logs:
          backups: true
        extra: 1
        """
    assert mistakes(text) == [
        "line 2: model.names: a name has letters, digits and . _ - : / only, not 'not ok'",
        "line 3: model.hub_id: write owner/name, not 'no-owner'",
        "line 5: engine.port: write a whole number, not '8000'",
        'line 7: engine.environment.THREADS: write text; put "quotes" around numbers and yes/no,'
        " not 4",
        "line 8: engine.options: 'host' is set by the launcher: " + OWNED_ENGINE_OPTIONS["host"],
        "line 11: webui.prot: unknown key; did you mean port?",
        "line 13: logs.backups: write a whole number, not True",
        "line 14: extra: unknown key; known: model, engine, webui, cluster, service, logs",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "line 1: model: this key is required"),
        ("engine:\n", "line 1: model: this key is required"),
        ("model:\n", "line 1: model: write exactly one of folder and hub_id"),
        (
            "model:\n  folder: a\n  hub_id: b/c\n",
            "line 1: model: write exactly one of folder and hub_id",
        ),
        ("- model\n", "line 1: the file: write 'key: value' lines below it"),
        ("model: here\n", "line 1: model: write 'key: value' lines below it, not 'here'"),
        (
            "model:\n  folder: [a]\n",
            'line 2: model.folder: write text; put "quotes" around numbers and yes/no',
        ),
        (
            f"{MINIMAL}webui:\n  host: no\n",
            'line 3: webui.host: write text; put "quotes" around numbers and yes/no, not False',
        ),
        (
            f"{MINIMAL}webui:\n  port: 70000\n",
            "line 3: webui.port: input should be less than or equal to 65535, not 70000",
        ),
        (f"{MINIMAL}webui:\n  port: yes\n", "line 3: webui.port: write a whole number, not True"),
        (f"{MINIMAL}logs:\n  max_mb: 1.5\n", "line 3: logs.max_mb: write a whole number, not 1.5"),
        (
            f"{MINIMAL}engine:\n  start_timeout_s: soon\n",
            "line 3: engine.start_timeout_s: write a number, not 'soon'",
        ),
        (
            f"{MINIMAL}engine:\n  start_timeout_s: .nan\n",
            "line 3: engine.start_timeout_s: input should be a finite number, not nan",
        ),
        (
            f"{MINIMAL}engine:\n  stop_timeout_s: 0.5\n",
            "line 3: engine.stop_timeout_s: input should be greater than or equal to 1, not 0.5",
        ),
        (
            f"{MINIMAL}engine:\n  stalled_after_s: 19\n",
            "line 3: engine.stalled_after_s: input should be greater than or equal to 20, not 19",
        ),
        (
            f"{MINIMAL}engine:\n  hung_after_s: .inf\n",
            "line 3: engine.hung_after_s: input should be a finite number, not inf",
        ),
        (
            f"{MINIMAL}engine:\n  crash_limit: 0\n",
            "line 3: engine.crash_limit: input should be greater than or equal to 1, not 0",
        ),
        (
            f"{MINIMAL}engine:\n  memory_timeout_s: 0\n",
            "line 3: engine.memory_timeout_s: input should be greater than 0, not 0",
        ),
        (
            f"{MINIMAL}service:\n  stop_limit: 9\n",
            "line 3: service.stop_limit: unknown key; did you mean stop_limit_s?",
        ),
        (
            f"{MINIMAL}engine:\n  command: vllm\n",
            "line 3: engine.command: write a list: one '- item' a line, not 'vllm'",
        ),
        (
            f"{MINIMAL}engine:\n  command: []\n",
            "line 3: engine.command: write a program and its arguments, or leave the key out",
        ),
        (
            f"{MINIMAL}engine:\n  options: [a]\n",
            "line 3: engine.options: write 'key: value' lines below it",
        ),
        (
            f"{MINIMAL}engine:\n  options:\n    --max-num-seqs: 8\n",
            "line 3: engine.options: '--max-num-seqs' is no option: write max-num-seqs, without"
            " dashes before it",
        ),
        (
            f"{MINIMAL}webui:\n  port: 8000\n",
            f"line 1: the file: {SAME_PORTS}",
        ),
    ],
)
def test_a_mistake_is_reported_with_line_path_and_fix(text: str, expected: str) -> None:
    """Each kind of mistake alone gives exactly one line."""
    assert [expected] == mistakes(text)


@pytest.mark.parametrize(
    ("section", "written", "meant"),
    [
        ("model", "folders", "folder"),
        ("engine", "option", "options"),
        ("engine", "start_timeout", "start_timeout_s"),
        ("webui", "max_upload", "max_upload_mb"),
        ("logs", "backup", "backups"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(
    section: str, written: str, meant: str
) -> None:
    """A misspelt key names the key of the same section that was meant."""
    document: dict[str, dict[str, Any]] = {"model": {"folder": "a"}}
    document.setdefault(section, {})[written] = 1
    [line] = mistakes(yaml.safe_dump(document))
    assert line.endswith(f"{section}.{written}: unknown key; did you mean {meant}?")


@pytest.mark.parametrize("section", ["engine", "webui", "service", "logs"])
@pytest.mark.parametrize("value", ["", " null", " {}"])
def test_a_section_may_be_empty(section: str, value: str) -> None:
    """A section whose keys are all commented out has its defaults."""
    assert parse(MINIMAL) == parse(f"{MINIMAL}{section}:{value}\n")


def spellings(option: str) -> list[str]:
    underscored = option.replace("-", "_")
    return [option, underscored, option.upper(), f"no-{option}", f"no_{underscored}"]


@pytest.mark.parametrize("option", OWNED_ENGINE_OPTIONS)
def test_an_option_the_launcher_sets_is_refused_in_every_spelling(option: str) -> None:
    """Dashes, underscores, capitals and a leading no- are the same owned option."""
    for key in spellings(option):
        [line] = mistakes(f"{MINIMAL}engine:\n  options:\n    {key}: x\n")
        expected = f"{key!r} is set by the launcher: {OWNED_ENGINE_OPTIONS[option]}"
        assert f"line 3: engine.options: {expected}" == line


def test_all_owned_options_of_a_file_are_named_together() -> None:
    """Two owned options are reported in one go, each on a line of its own."""
    lines = mistakes(f"{MINIMAL}engine: {{options: {{port: 1, no_api_key: x, dtype: auto}}}}\n")
    expected = [("port", "port"), ("no_api_key", "api-key")]
    assert lines == [
        f"line 2: engine.options: {key!r} is set by the launcher: {OWNED_ENGINE_OPTIONS[option]}"
        for key, option in expected
    ]


@pytest.mark.parametrize(
    ("key", "option"),
    [
        ("mode", "model"),
        ("served", "served-model-name"),
        ("Served_Model", "served-model-name"),
        ("hos", "host"),
        ("no-api", "api-key"),
        ("ssl-key", "ssl-keyfile"),
        ("allowed-media", "allowed-media-domains"),
        ("shutdown", "shutdown-timeout"),
        ("conf", "config"),
    ],
)
def test_the_beginning_of_an_owned_option_is_owned(key: str, option: str) -> None:
    """vLLM would take it for the option itself."""
    expected = f"{key!r} is set by the launcher: {OWNED_ENGINE_OPTIONS[option]}"
    assert mistakes(f"{MINIMAL}engine:\n  options:\n    {key}: x\n") == [
        f"line 3: engine.options: {expected}"
    ]


@pytest.mark.parametrize(
    ("key", "echo"),
    [
        ("--max-num-seqs", "max-num-seqs"),
        ("-dtype", "dtype"),
        ("---tool_call_parser", "tool_call_parser"),
        ("--", "max-num-seqs"),
    ],
)
def test_a_dashed_option_is_repeated_without_its_dashes(key: str, echo: str) -> None:
    """The person's own key comes back as it is to be written; dashes alone get an example."""
    document = {"model": {"folder": "a"}, "engine": {"options": {key: 1}}}
    [line] = mistakes(yaml.safe_dump(document))
    assert line.endswith(f"{key!r} is no option: write {echo}, without dashes before it")


@pytest.mark.parametrize("option", ["max-num-seqs", "model-impl", "hf-config-path", "nonsense"])
def test_other_options_of_vllm_are_let_through(option: str) -> None:
    """Only the owned names are refused, not options that resemble them."""
    config = parse(f"{MINIMAL}engine:\n  options:\n    {option}: 1\n")
    assert {option: 1} == config.engine.options


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("max_num_seqs", "max-num-seqs"),
        ("max-num-seqs", "max-num-seqs"),
        ("no-enable-prefix-caching", "enable-prefix-caching"),
        ("No_Enable_Prefix_Caching", "enable-prefix-caching"),
        ("nothing", "nothing"),
    ],
)
def test_spellings_of_an_option_have_one_name(key: str, expected: str) -> None:
    """option_name folds case, underscores and the no- prefix."""
    assert expected == option_name(key)


@pytest.mark.parametrize("value", ["stepfun-ai/Step3-VL-10B", "a/b", "a.b/c_d-e"])
def test_a_hub_id_is_owner_and_name(value: str) -> None:
    """Names as the hub writes them are taken as they are."""
    assert value == parse(f"model:\n  hub_id: {value}\n").model.hub_id


@pytest.mark.parametrize("value", ["name", "a/b/c", "https://huggingface.co/a/b", "a b/c", "/b"])
def test_what_is_no_hub_id_is_refused(value: str) -> None:
    """A URL or a bare name gets the form to write."""
    expected = f"line 2: model.hub_id: write owner/name, not {value!r}"
    assert [expected] == mistakes(f"model:\n  hub_id: {value!r}\n")


@pytest.mark.parametrize("name", ["a b", "", "a,b", 'a"b', "a\\b", "名 字"])
def test_a_served_name_with_odd_characters_is_refused(name: str) -> None:
    """Names travel in URLs and headers, so spaces and quotes are no part of them."""
    [line] = mistakes(yaml.safe_dump({"model": {"folder": "a", "names": [name]}}))
    assert line.endswith(f"a name has letters, digits and . _ - : / only, not {name!r}")


def test_a_model_has_at_least_one_name() -> None:
    """An empty list of names leaves nothing to answer under."""
    [line] = mistakes("model: {folder: a, names: []}\n")
    assert line.startswith("line 1: model.names: list should have at least 1 item")


@pytest.mark.parametrize("section", ["model", "engine", "webui", "logs"])
def test_a_section_cannot_be_changed_after_reading(section: str) -> None:
    """Every section is frozen: nobody changes the configuration behind another's back."""
    part = getattr(parse(MINIMAL), section)
    key = next(iter(type(part).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(part, key, getattr(part, key))


def test_the_whole_configuration_cannot_be_changed() -> None:
    """A section cannot be replaced either."""
    config = parse(MINIMAL)
    with pytest.raises(ValidationError, match="frozen"):
        config.logs = LogsConfig(max_mb=1)


OPTION_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"])).filter(
        lambda text: not text.startswith("-")
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner),
    max_leaves=5,
)


@settings(deadline=None, max_examples=60)
@given(
    options=st.dictionaries(st.from_regex(r"x[a-z0-9.-]{0,12}", fullmatch=True), OPTION_VALUES),
    port=st.integers(1, 7859),
    notice=st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"])),
)
def test_what_is_written_is_what_is_read(options: dict[str, Any], port: int, notice: str) -> None:
    """Any value a YAML can hold comes out unchanged and with its type."""
    document = {
        "model": {"folder": "a", "notice": notice},
        "engine": {"port": port, "options": options},
    }
    config = parse(yaml.safe_dump(document, allow_unicode=True, sort_keys=False))
    assert (notice, port) == (config.model.notice, config.engine.port)
    assert repr(options) == repr(config.engine.options)


def test_a_file_is_read_with_its_defaults(tmp_path: Path) -> None:
    """A minimal file gives the documented defaults."""
    path = tmp_path / "deploy.yaml"
    path.write_text(MINIMAL)
    config = load_config(path)
    assert (config.model.folder, config.model.names) == ("checkpoint", ["Step3-VL-10B"])
    assert (config.webui.host, config.webui.port, config.engine.port) == ("127.0.0.1", 7860, 8000)


def test_a_configuration_error_exits_with_2() -> None:
    """The command line tells a wrong YAML from other errors by the exit code."""
    with pytest.raises(ConfigError) as caught:
        parse("")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "model: {names: []}\n",
            [
                f"line 1: model: {ONE_SOURCE}",
                "line 1: model.names: list should have at least 1 item after validation, not 0",
            ],
        ),
        (
            "model:\n  folder: a\n  hub_id: b/c\n  name: x\n",
            [
                f"line 1: model: {ONE_SOURCE}",
                "line 4: model.name: unknown key; did you mean names?",
            ],
        ),
        (
            f"{MINIMAL}engine:\n  port: 7860\nlogs:\n  max_mb: x\n",
            [
                f"line 1: the file: {SAME_PORTS}",
                "line 5: logs.max_mb: write a whole number, not 'x'",
            ],
        ),
        (
            "model: {}\nwebui:\n  port: 8000\nextra: 1\n",
            [
                f"line 1: model: {ONE_SOURCE}",
                f"line 1: the file: {SAME_PORTS}",
                "line 4: extra: unknown key; known: model, engine, webui, cluster, service, logs",
            ],
        ),
    ],
)
def test_mistakes_between_keys_are_reported_beside_those_of_keys(
    text: str, expected: list[str]
) -> None:
    """One run names both kinds, each of them once."""
    assert expected == mistakes(text)


@pytest.mark.parametrize(
    ("section", "values", "expected"),
    [
        (
            "engine",
            {"options": {"-a": 1, "host": 1, "x": ["-y"]}},
            [
                "engine.options: '-a' is no option: write a, without dashes before it",
                f"engine.options: 'host' is set by the launcher: {OWNED_ENGINE_OPTIONS['host']}",
                "engine.options: 'x': an item of a list cannot begin with a dash; it would be"
                " another option",
            ],
        ),
        (
            "engine",
            {"options": {"a-b": 1, "a_b": 2}},
            [
                "engine.options: 'a-b' is written twice, in two spellings; keep one",
                "engine.options: 'a_b' is written twice, in two spellings; keep one",
            ],
        ),
        (
            "engine",
            {"environment": {"A B": "", "1": "", "GOOD": "a\0b"}},
            [
                "engine.environment: 'A B' is no name of an environment variable",
                "engine.environment: '1' is no name of an environment variable",
                "engine.environment: GOOD: no NUL character, please",
            ],
        ),
    ],
)
def test_each_mistake_of_a_map_has_a_line_of_its_own(
    section: str, values: dict[str, Any], expected: list[str]
) -> None:
    """The line number and the path are repeated, so that every line stands alone."""
    lines = mistakes(yaml.safe_dump({section: values, "model": {"folder": "a"}}, sort_keys=False))
    assert [f"line 2: {words}" for words in expected] == lines


def test_all_wrong_names_are_listed_together() -> None:
    """One sentence has every name that cannot be used, and none that can."""
    [line] = mistakes("model: {folder: a, names: [ok, a b, c d]}\n")
    expected = "a name has letters, digits and . _ - : / only, not 'a b', 'c d'"
    assert f"line 1: model.names: {expected}" == line


@pytest.mark.parametrize(
    ("engine", "numbers"),
    [
        ({"stalled_after_s": 60, "hung_after_s": 60}, ("60", "60")),
        ({"stalled_after_s": 60, "hung_after_s": 40}, ("60", "40")),
        ({"hung_after_s": 30}, ("30", "30")),
        ({"stalled_after_s": 120.5}, ("120.5", "120")),
    ],
)
def test_a_hang_is_told_before_it_is_ended(
    engine: dict[str, float], numbers: tuple[str, str]
) -> None:
    """Otherwise nobody would ever read of it; defaults count too."""
    lines = mistakes(yaml.safe_dump({"model": {"folder": "a"}, "engine": engine}))
    expected = "engine: stalled_after_s ({}) must be less than hung_after_s ({})".format(*numbers)
    assert [line.partition(": ")[2] for line in lines] == [expected]


@pytest.mark.parametrize(
    ("sections", "chain", "limit"),
    [
        ({"service": {"stop_limit_s": 10}}, "45", "10"),
        ({"service": {"stop_limit_s": 44.5}}, "45", "44.5"),
        (
            {"service": {"stop_limit_s": 10}, "webui": {"stop_timeout_s": 1.5}},
            "39",
            "10",
        ),
        (
            {
                "service": {"stop_limit_s": 10},
                "webui": {"stop_timeout_s": 1},
                "engine": {"stop_timeout_s": 2.5},
            },
            "11",
            "10",
        ),
    ],
)
def test_a_stop_that_would_be_cut_off_is_refused(
    sections: dict[str, Any], chain: str, limit: str
) -> None:
    """With both numbers, what they are made of, and what to change."""
    lines = mistakes(yaml.safe_dump({"model": {"folder": "a"}, **sections}))
    expected = (
        f"a stop may take {chain} s, more than service.stop_limit_s ({limit}):"
        " webui.stop_timeout_s and 3 more, then engine.stop_timeout_s and 4 more; lower them, or"
        " raise it"
    )
    assert [f"line 1: the file: {expected}"] == lines


def test_a_stop_that_just_fits_is_taken() -> None:
    """Ten seconds, as containers have them; without a limit everything is."""
    limits = "service: {stop_limit_s: 10}\n"
    times = "webui: {stop_timeout_s: 1}\nengine: {stop_timeout_s: 2}\n"
    config = parse(f"{MINIMAL}{limits}{times}")
    assert config.webui.stop_wait_s + config.engine.stop_wait_s == config.service.stop_limit_s == 10
    assert (
        parse("model: {folder: a}\nengine: {stop_timeout_s: 86400}\n").service.stop_limit_s is None
    )


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 700))
def test_no_stop_is_longer_than_what_is_outside_allows(
    webui_s: int, engine_s: int, limit: int
) -> None:
    """A YAML is taken exactly where the whole chain fits."""
    text = (
        f"{MINIMAL}service: {{stop_limit_s: {limit}}}\nwebui: {{stop_timeout_s: {webui_s}}}\n"
        f"engine: {{stop_timeout_s: {engine_s}}}\n"
    )
    fits = webui_s + 3 + engine_s + 4 <= limit
    try:
        parse(text)
    except ConfigError:
        assert not fits
    else:
        assert fits


MENU = """
webui:
  tasks:
    - name: menu
      title: {en: Menu, zh: 菜单}
      prompt: Read this menu. All prices are in $.
      json_schema: {type: object}
"""


def test_tasks_of_ones_own() -> None:
    """A text in one language stands for both; what is not written has its default."""
    [task] = parse(MINIMAL + MENU).webui.tasks
    assert (task.title.en, task.title.zh) == ("Menu", "菜单")
    assert task.prompt.en == task.prompt.zh == "Read this menu. All prices are in $."
    assert (task.temperature, task.max_tokens) == (0.3, 1024)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("name: Menu", "line 4: webui.tasks.0.name: string should match"),
        ("title: {en: A}", "line 4: webui.tasks.0.title.zh: this key is required"),
        ("title: {en: A, zh: B, fr: C}", "tasks.0.title.fr: unknown key; known: en, zh"),
        ("prompt: 5", "line 4: webui.tasks.0.prompt: write a text, or one in each language"),
        ("prompt: ''", "line 4: webui.tasks.0.prompt: string should have at least"),
        ("temprature: 1", "webui.tasks.0.temprature: unknown key; did you mean temperature?"),
        ("temperature: 3", "webui.tasks.0.temperature: "),
        ("json_schema: {type: objec}", "is no JSON schema: 'objec' is not valid"),
    ],
)
def test_wrong_tasks(line: str, problem: str) -> None:
    """Each mistake with its line and its place in the list."""
    keys = {"name": "name: a", "title": "title: A", "prompt": "prompt: B"}
    key = line.partition(":")[0]
    keys.pop(key, None)
    text = "\n      ".join([line, *keys.values()])
    [mistake] = mistakes(f"{MINIMAL}webui:\n  tasks:\n    - {text}\n")
    assert problem in mistake


def test_two_tasks_of_one_name() -> None:
    """Only one of them could be chosen."""
    task = "    - {name: a, title: A, prompt: B}\n"
    [mistake] = mistakes(f"{MINIMAL}webui:\n  tasks:\n{task}{task}")
    assert "two tasks have the name a" in mistake
