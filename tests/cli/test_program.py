import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtrouter_rl.cli.commands import all_commands
from mtrouter_rl.cli.parser import EXIT_CODES
from mtrouter_rl.cli.program import main
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.options.command import OUTPUT_OPTIONS, Group


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_the_whole_job_on_the_toy(tmp_path, capsys):
    """collect, inspect, train, evaluate, report: the calls of the README."""
    log, router, out = tmp_path / "log", tmp_path / "cheapest", tmp_path / "run"
    collect = ("collect", "--env", "corridor", "--policy", "uniform", "--episodes", "40", "--seed", "3")
    assert run(*collect, "--workers", "1", "--out", log) == 0
    assert run("inspect", log) == 0
    capsys.readouterr()
    assert run("inspect", log, "--json") == 0
    assert json.loads(capsys.readouterr().out)["n_episodes"] == 40
    assert run("train", "--agent", "single:middle", "--env", "corridor", "--out", router) == 0
    evaluate = ("evaluate", "--router", router, "random", "--env", "corridor", "--split", "test", "--seeds", "2")
    assert run(*evaluate, "--workers", "1", "--out", out) == 0
    assert "16 episodes" in capsys.readouterr().out
    assert len(json.loads((out / "results.json").read_text())["rows"]) == 2
    assert run(*evaluate, "--workers", "1", "--out", out, "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads((out / "results.json").read_text())
    assert run("report", out) == 0
    assert (out / "report.html").is_file()


ERRORS = [
    (("collect", "--env", "scienceword", "--policy", "uniform", "--episodes", "1"), "did you mean 'scienceworld'"),
    (("collect", "--env", "corridor", "--policy", "unifrom", "--episodes", "1"), "did you mean 'uniform'"),
    (("collect", "--env", "corridor", "--policy", "uniform", "--episodes", "0"), "must be at least 1|give --policy"),
    (
        ("collect", "--env", "corridor", "--pool", "paper", "--policy", "uniform", "--episodes", "1"),
        "unknown pool card",
    ),
    (("collect", "--env", "corridor"), "give --policy and --episodes"),
    (("train", "--agent", "fited-q"), "did you mean 'fitted-q'"),
    (("train", "--agent", "fitted-q", "--env", "corridor"), "--dataset DIR"),
    (("evaluate", "--router", "random", "--env", "corridor", "--seeds", "0"), "must be at least 1"),
    (("evaluate", "--router", "random", "random", "--env", "corridor"), "more than once"),
    (("study", "--env", "corridor", "--cost-weight", "-1"), "cost_weight"),
    (("collect", "--env", "corridor", "--policy", "uniform", "--episodes", "1", "--workers", "0"), "workers is 0"),
]


@pytest.mark.parametrize(("arguments", "message"), ERRORS)
def test_errors_are_explained_and_exit_with_1(arguments, message, tmp_path, capsys):
    assert run(*arguments, "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"mtrouter-rl {arguments[0]}: ")
    assert pytest.importorskip("re").search(message, error), error


def test_inspect_names_what_is_wrong(tmp_path, capsys, corridor_log):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in corridor_log.iterdir():
        data = path.read_bytes()
        (broken / path.name).write_bytes(data[: len(data) // 2] if path.name == "turns-00001.parquet" else data)
    assert run("inspect", broken) == 1
    assert "turns-00001.parquet" in capsys.readouterr().err


def start(*arguments):
    command = [sys.executable, "-m", "mtrouter_rl.cli.program", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def kill_once(process, is_reached):
    """kill -9 the whole process group as soon as a condition on its files holds."""
    deadline = time.monotonic() + 400
    while not is_reached():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def contents(folder, pattern="*"):
    return {path.name: path.read_bytes() for path in folder.glob(pattern) if path.is_file()}


def test_a_collection_killed_in_the_middle_ends_the_same(tmp_path):
    arguments = ("collect", "--env", "corridor", "--policy", "sticky:0.5", "--episodes", "600", "--workers", "1")
    out = tmp_path / "killed"
    kill_once(start(*arguments, "--out", out), lambda: (out / "episodes-00001.parquet").is_file())
    assert not (out / "episodes-00011.parquet").exists()
    assert run(*arguments, "--out", out) == 0
    assert run(*arguments, "--out", tmp_path / "whole") == 0
    assert contents(out) == contents(tmp_path / "whole")
    assert len(Dataset.load(out).completed) == 600


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
def test_workers_end_with_a_command_that_is_killed(tmp_path):
    out = tmp_path / "killed"
    # So many jobs are queued that no worker ends for lack of work.
    arguments = ("collect", "--env", "corridor", "--policy", "uniform", "--episodes", "6000", "--workers", "2")
    process = start(*arguments, "--out", out)
    deadline = time.monotonic() + 400
    while not (out / "episodes-00000.parquet").is_file():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers = [pid for pid, group in processes() if group == process.pid and pid != process.pid]
    assert len(workers) >= 2
    process.kill()  # the command alone, not its group
    process.wait()
    while {pid for pid, group in processes() if group == process.pid} & set(workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def processes():
    """(process, its group) of every process that has not ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if state != "Z":
                found.append((int(folder.name), int(group)))
    return found


def test_a_training_killed_in_the_middle_ends_the_same(tmp_path, corridor_log):
    card = tmp_path / "small.yaml"
    card.write_text(
        "name: small\ndescription: a small training\nalgorithm: fitted_q\n"
        "parameters: { n_iterations: 8, steps_per_iteration: 40, batch_size: 32 }\n"
    )
    arguments = ("train", "--agent", card, "--env", "corridor", "--dataset", corridor_log, "--seed", "5")
    out = tmp_path / "killed"
    kill_once(start(*arguments, "--out", out), lambda: any((out / "checkpoints").glob("iteration-*2")))
    assert not (out / "router.json").exists()
    assert run(*arguments, "--out", out) == 0
    assert run(*arguments, "--out", tmp_path / "whole") == 0
    assert contents(out, "*.safetensors") == contents(tmp_path / "whole", "*.safetensors")


def test_importing_and_parsing_load_nothing_heavy():
    code = (
        "import sys, mtrouter_rl, mtrouter_rl.cli.program, mtrouter_rl.envs.scienceworld.task, mtrouter_rl.rollout\n"
        "mtrouter_rl.cli.program.build_parser()\n"
        "assert not {'py4j', 'torch', 'd3rlpy', 'scienceworld', 'sentence_transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""


def test_episodes_of_an_evaluation_that_is_never_run_are_refused(tmp_path, capsys):
    words = [
        "train",
        "--env",
        "corridor",
        "--agent",
        "random",
        "--evaluate-episodes",
        "5",
        "--out",
        str(tmp_path / "x"),
    ]
    assert main(words) == 1
    assert "--evaluate-episodes is for --evaluate-every N, which is missing" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_help_shows_four_groups_on_one_screen(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 44
    assert all(len(line) <= 100 for line in lines)
    groups = [group.value for group in Group if group is not Group.LAB]
    assert len(groups) == 4
    assert [line for line in lines if line in groups] == groups
    codes = next(line for line in lines if line.startswith("Exit codes: "))
    assert [int(word) for word in codes.split() if word.isdigit()] == list(EXIT_CODES)
    shown = {line.split()[0] for line in lines if line.startswith("  ")}
    assert shown == {"lab", *(one.name for one in all_commands() if one.group is not Group.LAB)}


def test_help_of_lab_has_a_line_for_each_study(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["lab", "--help"])
    assert stopped.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    for command in all_commands():
        assert (f"{command.name} {command.summary}" in printed) == (command.group is Group.LAB)


def test_names_are_unique():
    names = [command.name for command in all_commands()]
    assert len({*names, "lab"}) == len(names) + 1


OLD_NAMES = [
    *("ablate", "calibrate", "frontier", "headroom", "hindsight-gap", "leave-one-out"),
    *("one-turn", "overestimation", "study-cross"),
]


@pytest.mark.parametrize("name", OLD_NAMES)
def test_old_names_of_studies_still_work_and_say_the_new_one(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    old = capsys.readouterr()
    assert old.err == f"mtrouter-rl: '{name}' is now 'mtrouter-rl lab {name}'\n"
    with pytest.raises(SystemExit):
        main(["lab", name, "--help"])
    new = capsys.readouterr()
    assert (new.out, new.err) == (old.out, "")


def test_errors_of_a_study_name_it(capsys):
    assert main(["lab", "hindsight-gap"]) == 1
    assert capsys.readouterr().err.startswith("mtrouter-rl lab hindsight-gap: give folders of datasets")


def test_quiet_prints_results_alone(tmp_path, corridor_log, capfd):
    words = ("collect", "--env", "corridor", "--policy", "uniform", "--episodes", "20", "--workers", "1", "--quiet")
    assert run(*words, "--out", tmp_path / "log") == 0
    printed = capfd.readouterr()
    assert ("corridor" in printed.out, printed.err) == (True, "")
    router = tmp_path / "router"
    train = ("train", "--env", "corridor", "--agent", "single:small", "--out", router, "--workers", "1")
    assert run(*train, "--quiet") == 0
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == (f"router saved in {router}\n", "")
    assert run(*train, "--json") == 0
    printed = capfd.readouterr()
    assert json.loads(printed.out) == {
        "router": str(router),
        "env": "corridor",
        "agent": "single:small",
        "verdict": None,
    }
    assert "evaluate it with" in printed.err
    assert run(*train, "--json", "--quiet") == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("words", [["nonsense"], ["collect", "--episodes", "many"], ["lab"], ["lab", "nonsense"], []])
def test_wrong_usage_exits_with_2(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "mtrouter-rl" in capsys.readouterr().err


def test_ctrl_c_exits_with_130(monkeypatch, capsys):
    def stop(words):
        raise KeyboardInterrupt

    monkeypatch.setattr("mtrouter_rl.cli.program.run_command", stop)
    assert main(["lab", "headroom"]) == 130
    assert "mtrouter-rl lab headroom: stopped; run the same command again" in capsys.readouterr().err


def test_a_reader_that_stops_is_no_error(tmp_path, corridor_log):
    code = f"from mtrouter_rl.cli.program import main; raise SystemExit(main(['inspect', {str(corridor_log)!r}]))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_shell_accepts_its_completion_script(shell, tmp_path, capsys):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    assert main(["completion", shell]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    assert subprocess.run([shell, "-n", script], capture_output=True, check=True).stderr == b""
    assert "leave-one-out" in script.read_text()


def test_bash_completes_commands_studies_and_options(tmp_path, capsys):
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)

    def completed(*words):
        line = f"source {script}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
        line += "$(complete -p mtrouter-rl | sed 's/.*-F //; s/ .*//') mtrouter-rl; echo ${COMPREPLY[@]}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
        return done.stdout.split()

    assert completed("mtrouter-rl", "beh") == ["behavior"]
    assert completed("mtrouter-rl", "lab", "head") == ["headroom"]
    assert completed("mtrouter-rl", "lab", "headroom", "--over") == ["--overwrite"]


def test_the_page_of_the_command_line_is_up_to_date():
    page = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")
    for group in Group:
        section = page.partition(f"## {group.value}\n")[2].partition("\n## ")[0]
        commands = [one for one in all_commands() if one.group is group]
        rows = [line for line in section.splitlines() if line.startswith("| `")]
        assert rows == [f"| `{one.name}` | {one.summary} |" for one in commands]
    section = page.partition("## Exit codes\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line[:3].strip("| ").isdigit()]
    assert rows == [f"| {code} | {text} |" for code, text in EXIT_CODES.items()]
    section = page.partition("## What every command takes\n")[2].partition("\n## ")[0]
    for option in OUTPUT_OPTIONS:
        assert f"| `{option.name}` | {option.help} |" in section


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evalute"], "unknown command 'evalute'; did you mean 'evaluate'"),
        (["lab", "headrom"], "unknown command 'headrom'; did you mean 'headroom'"),
        ([], "say which command; mtrouter-rl --help lists them"),
    ],
)
def test_a_wrong_command_is_told_the_nearest_one(capsys, words, message):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
