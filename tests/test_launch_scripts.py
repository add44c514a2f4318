"""The launchers run stub commands, which record their arguments."""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

ROOT = pathlib.Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
RUN = (
    "--config=configs/vgg16_col.py", "--workdir=/ckpt/a b", "--config.data.scale=(256,480)",
    "--config.data.source=it's $HOME \"*\"",
)  # fmt: skip
TRAIN = ("python", "-m", "colorize_jax.main")
OPTIONS = {
    "local": (), "slurm": (), "tpu_vm": ("--name=me", "--zone=here"),
    "kubernetes": ("--image=registry/colorize:1",),
}  # fmt: skip


class _Stubs:
    """A folder at the front of PATH; every stub notes its arguments, then runs `body`."""

    def __init__(self, folder):
        self.bin, self.notes = folder / "bin", folder / "calls"
        self.bin.mkdir()
        self.notes.mkdir()
        self.env = os.environ | {
            "PATH": f"{self.bin}:{os.environ['PATH']}", "NOTES": str(self.notes),
            "HOME": str(folder), "SLURM_JOB_ID": "12", "SLURM_CPUS_PER_TASK": "6",
        }  # fmt: skip

    def add(self, name, body=""):
        note = 'note=$(mktemp "$NOTES/XXXXXX"); printf "%s\\0" "${0##*/}" "$@" >"$note"\n'
        note += 'call=$(cat "$NOTES/.count" 2>/dev/null || echo 0); call=$((call + 1))\n'
        note += 'echo $call >"$NOTES/.count"; mv "$note" "$NOTES/$(printf %03d $call)"\n'
        path = self.bin / name
        path.write_text(f"#!/usr/bin/env bash\n{note}{body}\n")
        path.chmod(0o755)
        return self

    def calls(self, name=None):
        """All command lines so far, in their order."""
        lines = [p.read_text().split("\0")[:-1] for p in sorted(self.notes.glob("[0-9]*"))]
        return [line for line in lines if name in (None, line[0])]

    def command(self, script, *arguments):
        return [str(LAUNCH / f"{script}.sh"), *arguments]

    def run(self, script, *arguments):
        return subprocess.run(
            self.command(script, *arguments),
            env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def start(self, script, *arguments):
        return subprocess.Popen(
            self.command(script, *arguments), env=self.env, cwd=ROOT, stderr=subprocess.DEVNULL
        )

    def wait_for(self, path):
        deadline = time.monotonic() + 30
        while not path.exists():
            assert time.monotonic() < deadline, f"{path} did not come"
            time.sleep(0.01)


@pytest.fixture
def stubs(tmp_path):
    return _Stubs(tmp_path)


# A training that prints a line, saves at the first signal, and dies at a second one.
OBEDIENT = """
trap 'echo saved >>"$NOTES/.saved"; exit 75' TERM INT
touch "$NOTES/.started"
for _ in {1..1500}; do sleep 0.02; done
"""


def test_shellcheck_is_content():
    program = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.defpath}")
    assert program, "pip install '.[test]' brings shellcheck"
    scripts = [*sorted(LAUNCH.glob("*.sh")), ROOT / ".ci" / "run"]
    assert len(scripts) >= 6
    result = subprocess.run(
        [program, "--external-sources", *map(str, scripts)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", OPTIONS)
def test_common_manners(stubs, script):
    for name in ("python", "sbatch", "srun", "gcloud", "kubectl"):
        stubs.add(name)
    options = OPTIONS[script]
    help_ = stubs.run(script, "--help")
    assert help_.returncode == 0 and f"launch/{script}.sh [--dry-run]" in help_.stdout
    assert "#" not in help_.stdout and "set -" not in help_.stdout
    for flag, others in (("--config", RUN[1:2]), ("--workdir", RUN[:1])):
        result = stubs.run(script, *options, "--", *others)
        assert result.returncode == 2 and f"{flag}=" in result.stderr
        assert result.stderr.count("\n") == 1
    result = stubs.run(script, *options, "mistake", "--", *RUN)
    assert result.returncode == 2 and "unknown option mistake" in result.stderr
    dry = stubs.run(script, "--dry-run", *options, "--", *RUN)
    assert dry.returncode == 0, dry.stderr
    assert stubs.calls() == []


@pytest.mark.parametrize("script", ("local", "slurm", "tpu_vm"))
def test_dry_run_ends_in_the_training_command(stubs, script):
    line = stubs.run(script, "--dry-run", *OPTIONS[script], "--", *RUN).stdout.splitlines()[-1]
    words = shlex.split(line)
    assert tuple(words[words.index("python") :]) == (*TRAIN, *RUN)


@pytest.mark.parametrize("code", (0, 1, 74, 75))
def test_local_passes_arguments_and_exit_code_on(stubs, code):
    stubs.add("python", f"exit {code}")
    assert stubs.run("local", "--", *RUN).returncode == code
    assert stubs.calls() == [[*TRAIN, *RUN]]


@pytest.mark.parametrize("crash", ("KILL", "ABRT", "SEGV"))
def test_local_starts_a_crashed_run_again(stubs, crash):
    stubs.add("python", f"((call < 3)) && kill -{crash} $$; exit 0")
    assert stubs.run("local", "--restarts=5", "--", *RUN).returncode == 0
    assert stubs.calls() == [[*TRAIN, *RUN]] * 3


def test_local_gives_up(stubs):
    stubs.add("python", "kill -KILL $$")
    assert stubs.run("local", "--restarts=1", "--", *RUN).returncode == 137
    assert len(stubs.calls()) == 2


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGINT))
def test_local_passes_signals_on(stubs, number):
    stubs.add("python", OBEDIENT)
    process = stubs.start("local", "--", *RUN)
    stubs.wait_for(stubs.notes / ".started")
    process.send_signal(number)
    assert process.wait(30) == 75
    assert (stubs.notes / ".saved").read_text() == "saved\n" and len(stubs.calls()) == 1


def test_local_sends_ctrl_c_once(stubs):
    """A terminal sends SIGINT to all foreground processes, but the run must get it only once."""
    stubs.add("python", 'trap \'echo >>"$NOTES/.told"\' INT\ntouch "$NOTES/.started"\n'
              'for _ in {1..25}; do sleep 0.02; done; exit 75')  # fmt: skip
    process = subprocess.Popen(
        stubs.command("local", "--", *RUN), env=stubs.env, cwd=ROOT, start_new_session=True
    )
    stubs.wait_for(stubs.notes / ".started")
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 75
    assert (stubs.notes / ".told").read_text() == "\n"


def test_local_does_not_restart_a_run_that_was_stopped(stubs):
    stubs.add("python", 'trap "kill -KILL $$" TERM; touch "$NOTES/.started"\n'
              "for _ in {1..1500}; do sleep 0.02; done")  # fmt: skip
    process = stubs.start("local", "--", *RUN)
    stubs.wait_for(stubs.notes / ".started")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 137 and len(stubs.calls()) == 1


# A scheduler of one node: it keeps a copy of the script, as SLURM does, runs it, and runs it again
# for as long as it was queued again.
SBATCH = """
options=()
while [[ $1 == -* ]]; do options+=("$1"); shift; done
cp "$1" "$HOME/slurm_script"
shift
while :; do
  rm -f "$NOTES/.requeue"
  bash "$HOME/slurm_script" "$@"
  code=$?
  [[ -e $NOTES/.requeue ]] || exit "$code"
done
"""
SRUN = 'while [[ $1 == -* ]]; do shift; done\n"$@"'
SCONTROL = """
if [[ $1 == requeue ]]; then touch "$NOTES/.requeue"; exit; fi
echo "JobId=12 JobState=${STATE:-RUNNING}"
"""


@pytest.fixture
def slurm(stubs):
    return stubs.add("sbatch", SBATCH).add("srun", SRUN).add("scontrol", SCONTROL)


def test_slurm_submits_one_process_for_each_gpu(slurm):
    slurm.add("python")
    own = ("--nodes=4", "--gpus-per-node=a100:2", "--partition=big", "--exclusive", "--grace=60")
    assert slurm.run("slurm", *own, "--", *RUN).returncode == 0
    [submitted] = slurm.calls("sbatch")
    options = set(submitted[1 : submitted.index("--job") - 1])
    assert options == {
        "--nodes=4", "--ntasks-per-node=2", "--gpus-per-node=a100:2", "--cpus-per-task=8",
        "--signal=TERM@60", "--requeue", "--open-mode=append", "--partition=big", "--exclusive",
    }  # fmt: skip
    [started] = slurm.calls("srun")
    assert {"--kill-on-bad-exit=0", "--gpu-bind=none", "--cpus-per-task=6"} < set(started)
    assert slurm.calls("python") == [[*TRAIN, *RUN]]


def test_slurm_queues_a_stopped_run_again_with_the_same_command(slurm):
    slurm.add("python", '[[ -e $NOTES/.second ]] && exit 0; touch "$NOTES/.second"; exit 75')
    assert slurm.run("slurm", "--", *RUN).returncode == 0
    assert slurm.calls("python") == [[*TRAIN, *RUN]] * 2
    assert [c for c in slurm.calls("scontrol") if c[1] == "requeue"] == [
        ["scontrol", "requeue", "12"]
    ]


@pytest.mark.parametrize("code", (0, 1, 74, 137))
def test_slurm_queues_nothing_else_again(slurm, code):
    slurm.add("python", f"exit {code}")
    assert slurm.run("slurm", "--", *RUN).returncode == code
    assert len(slurm.calls("python")) == 1 and not slurm.calls("scontrol")


def test_slurm_leaves_a_cancelled_job_alone(slurm):
    slurm.add("python", "exit 75")
    slurm.env["STATE"] = "CANCELLED"
    assert slurm.run("slurm", "--", *RUN).returncode == 75
    assert len(slurm.calls("python")) == 1


@pytest.mark.parametrize("shell_too", (False, True))
def test_slurm_outlives_the_signal(slurm, shell_too):
    """The time limit signals the steps; some ends of a job signal the shell too."""
    slurm.add("python", OBEDIENT.replace("touch", 'echo $$ >"$NOTES/.pid"; touch'))
    process = slurm.start("slurm", "--job", *RUN)
    slurm.wait_for(slurm.notes / ".started")
    if shell_too:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert process.poll() is None
    os.kill(int((slurm.notes / ".pid").read_text()), signal.SIGTERM)
    assert process.wait(30) == 75
    assert ["scontrol", "requeue", "12"] in slurm.calls("scontrol")


# A cloud with one TPU, whose state is in a file. Training writes the TPU's next state into .lost.
GCLOUD = """
state=$NOTES/.state
case "$3 $4" in
  "queued-resources list")
    if [[ ! -e $state ]]; then exit 0; fi
    if [[ $(<$state) == SUSPENDED ]]; then cat $state; else echo ACTIVE; fi
    ;;
  "queued-resources create") echo CREATING >$state ;;
  "queued-resources delete") rm $state ;;
  "tpu-vm describe") cat $state; [[ $(<$state) == CREATING ]] && echo READY >$state ;;
  "tpu-vm scp") cp "$5" "$HOME/colorize.tar.gz" ;;
  "tpu-vm ssh")
    for word in "$@"; do [[ $word == --command=* ]] && command=${word#--command=}; done
    cd "$HOME" && bash -c "$command"
    code=$?
    if [[ -e $NOTES/.lost ]]; then mv "$NOTES/.lost" $state; fi
    exit "$code"
    ;;
esac
exit 0
"""


@pytest.fixture
def cloud(stubs):
    """The workers are this machine, with an existing virtual environment."""
    activate = pathlib.Path(stubs.env["HOME"], "colorize_venv", "bin", "activate")
    activate.parent.mkdir(parents=True)
    activate.write_text("")
    stubs.add("gcloud", GCLOUD).add("uv").add("mountpoint", "exit 1").add("sudo").add("gcsfuse")
    return stubs.add("flock", 'shift; "$@"')


def _verbs(cloud):
    looks = ("list", "describe")
    return [call[4] for call in cloud.calls("gcloud") if call[4] not in looks]


def test_tpu_is_created_set_up_and_trains(cloud):
    cloud.add("python", 'pwd >"$NOTES/.where"; ls configs >/dev/null')
    options = ("--type=v4-16", "--version=tpu-ubuntu2204-base", "--spot", "--bucket=photos")
    result = cloud.run("tpu_vm", *OPTIONS["tpu_vm"], "--poll=0", *options, "--", *RUN)
    assert result.returncode == 0, result.stderr
    assert _verbs(cloud) == ["create", "scp", "ssh"]
    create = next(call for call in cloud.calls("gcloud") if call[4] == "create")
    assert create[1:] == [
        "compute", "tpus", "queued-resources", "create", "me", "--node-id=me",
        "--accelerator-type=v4-16", "--runtime-version=tpu-ubuntu2204-base", "--spot",
        "--zone=here",
    ]  # fmt: skip
    for call in cloud.calls("gcloud"):
        assert "--zone=here" in call and (call[4] not in ("scp", "ssh") or "--worker=all" in call)
    assert cloud.calls("uv") == [["uv", "pip", "install", "--quiet", ".[tpu]"]]
    [mounted] = cloud.calls("gcsfuse")
    assert mounted[-2:] == ["photos", "/mnt/colorize"]
    assert "--rename-dir-limit=100000" in mounted
    assert cloud.calls("python") == [[*TRAIN, *RUN]]
    assert (cloud.notes / ".where").read_text() == f"{cloud.env['HOME']}/colorize\n"


@pytest.mark.parametrize("state", ("PREEMPTED", "SUSPENDED"))
def test_a_preempted_tpu_is_replaced_and_the_run_resumes(cloud, state):
    lose = f'touch "$NOTES/.once"; echo {state} >"$NOTES/.lost"; exit 1'
    cloud.add("python", f"[[ -e $NOTES/.once ]] && exit 0; {lose}")
    result = cloud.run("tpu_vm", *OPTIONS["tpu_vm"], "--poll=0", "--", *RUN)
    assert result.returncode == 0, result.stderr
    assert _verbs(cloud) == ["create", "scp", "ssh", "delete", "create", "scp", "ssh"]
    assert cloud.calls("python") == [[*TRAIN, *RUN]] * 2
    assert not cloud.calls("gcsfuse")


def test_a_stopped_run_on_a_tpu_resumes_there(cloud):
    cloud.add("python", '[[ -e $NOTES/.once ]] && exit 0; touch "$NOTES/.once"; exit 75')
    assert cloud.run("tpu_vm", *OPTIONS["tpu_vm"], "--poll=0", "--", *RUN).returncode == 0
    assert _verbs(cloud) == ["create", "scp", "ssh", "scp", "ssh"]


@pytest.mark.parametrize("code", (0, 1, 74))
@pytest.mark.parametrize("delete", ((), ("--delete",)))
def test_tpu_passes_the_exit_code_on(cloud, code, delete):
    cloud.add("python", f"exit {code}")
    (cloud.notes / ".state").write_text("READY")
    options = (*OPTIONS["tpu_vm"], "--poll=0", *delete)
    assert cloud.run("tpu_vm", *options, "--", *RUN).returncode == code
    assert _verbs(cloud) == ["scp", "ssh", *(["delete"] if delete else [])]
    assert len(cloud.calls("python")) == 1


def test_tpu_whose_setup_fails_does_not_train(cloud):
    cloud.add("python").add("uv", "exit 3")
    (cloud.notes / ".state").write_text("READY")
    assert cloud.run("tpu_vm", *OPTIONS["tpu_vm"], "--poll=0", "--", *RUN).returncode == 3
    assert not cloud.calls("python")


def _pods(jobset):
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    [job] = jobset["spec"]["replicatedJobs"]
    return job["name"], job["template"]["spec"]


def test_kubernetes_file_is_valid_unfilled():
    name, job = _pods(yaml.safe_load((LAUNCH / "kubernetes.yaml").read_text()))
    assert name == "workers" and job["completionMode"] == "Indexed"


def test_kubernetes_filled(stubs):
    select = ("--select=a/b=c", "--select=d=e=f")
    filled = stubs.run(
        "kubernetes", "--dry-run", *OPTIONS["kubernetes"], "--name=rates-1", "--hosts=4",
        "--chips=2", "--resource=google.com/tpu", *select, "--claim=disk", "--mount=/ckpt",
        "--restarts=7", "--", *RUN, "--config.data.source=/$(HOME)&$NAME",
    ).stdout  # fmt: skip
    jobset = yaml.safe_load(filled)
    assert jobset["metadata"]["name"] == "rates-1"
    name, job = _pods(jobset)
    assert (job["parallelism"], job["completions"], job["completionMode"]) == (4, 4, "Indexed")
    # Every failure ends the Job and restarts all hosts, except failures that would occur again.
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 7
    [rule] = policy["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    [rule] = job["podFailurePolicy"]["rules"]
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {
        "containerName": container["name"], "operator": "In", "values": [1, 2, 74],
    }  # fmt: skip
    assert job["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] >= 300
    assert pod["nodeSelector"] == {"a/b": "c", "d": "e=f"}
    assert container["image"] == "registry/colorize:1"
    assert container["command"] == list(TRAIN)
    assert container["args"] == [
        *RUN, "--config.data.source=/$$(HOME)&$NAME", "--config.distributed.mode=explicit",
        "--config.distributed.count=4",
        f"--config.distributed.coordinator=rates-1-{name}-0-0.rates-1:8476",
        "--config.distributed.id=$(JOB_COMPLETION_INDEX)",
    ]  # fmt: skip
    assert jobset["spec"]["network"]["enableDNSHostnames"] is True
    assert container["ports"] == [{"containerPort": 8476}]
    assert container["resources"]["limits"] == {"google.com/tpu": 2}
    [claim] = [v for v in pod["volumes"] if "persistentVolumeClaim" in v]
    assert claim["persistentVolumeClaim"]["claimName"] == "disk"
    assert {"name": claim["name"], "mountPath": "/ckpt"} in container["volumeMounts"]


def test_kubernetes_applies_what_the_dry_run_prints(stubs):
    stubs.add("kubectl", 'cat >"$NOTES/.applied"; exit 5')
    arguments = (*OPTIONS["kubernetes"], "--", *RUN)
    assert stubs.run("kubernetes", *arguments).returncode == 5
    assert stubs.calls("kubectl") == [["kubectl", "apply", "-f", "-"]]
    dry = stubs.run("kubernetes", "--dry-run", *arguments)
    assert (stubs.notes / ".applied").read_text() == dry.stdout


@pytest.mark.parametrize("name", ("Rates", "a_b", "-a", "a-", "a" * 41))
def test_kubernetes_refuses_a_name_that_the_cluster_would(stubs, name):
    result = stubs.run("kubernetes", *OPTIONS["kubernetes"], f"--name={name}", "--", *RUN)
    assert result.returncode == 2 and name in result.stderr
