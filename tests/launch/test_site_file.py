"""Site files: what they may say, and the one line that says what is wrong."""

import pytest

from nemo_bielik.errors import ConfigError
from nemo_bielik.launch import site_file
from nemo_bielik.launch.lepton_site import LeptonSite
from nemo_bielik.launch.site import LocalSite
from nemo_bielik.launch.site_file import find_site, load_sites
from nemo_bielik.launch.slurm_site import SlurmSite, seconds

SLURM = """\
[cluster]
kind = "slurm"
account = "physics"
job_directory = "/scratch/jobs"
gres = "gpu:h200:8"
"""
LEPTON = """\
[lepton]
kind = "lepton"
node_group = "group"
resource_shape = "gpu.8xh200"
image = "image"
job_directory = "/shared/jobs"
[[lepton.mounts]]
path = "/"
mount_path = "/shared"
source = "node-nfs:shared"
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes the site file of a user who has no other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(site_file, "USER_FILE", tmp_path / "home" / "site.toml")

    def write(text):
        path = tmp_path / "site.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_without_a_file_there_is_this_machine(write):
    assert load_sites() == {"local": LocalSite()}


def test_tables_become_sites_with_defaults(write):
    path = write(SLURM + "[cluster.ssh]\nhost = 'login'\nuser = 'me'\n" + LEPTON)
    found = load_sites(path)
    assert list(found) == ["local", "cluster", "lepton"]
    cluster = found["cluster"]
    assert isinstance(cluster, SlurmSite)
    assert (cluster.account, cluster.partition, cluster.node_ranks) == ("physics", "", 8)
    assert cluster.ssh is not None
    assert (cluster.ssh.host, cluster.ssh.port) == ("login", 22)
    lepton = found["lepton"]
    assert isinstance(lepton, LeptonSite)
    assert lepton.mounts[0].source == "node-nfs:shared"


def test_the_file_beside_the_work_comes_before_the_users(write, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "site.toml").write_text(LEPTON)
    assert "lepton" in load_sites()
    (tmp_path / "bielik_site.toml").write_text(SLURM)
    assert set(load_sites()) == {"local", "cluster"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SLURM + "acount = 'x'", "[cluster]: unknown setting 'acount' (did you mean 'account'?)"),
        (SLURM.replace("account", "qos"), "[cluster]: account is missing (account that is charged"),
        (SLURM + "time = 4", "[cluster]: time is 4; it must be text in quotes"),
        (SLURM + "time = 'noon'", "[cluster]: time is 'noon'; it must be like 04:00:00"),
        (SLURM + "setup = 'module'", "[cluster]: setup is 'module'; it must be a list in [ ]"),
        (SLURM + "setup = [1]", "[cluster]: setup[0] is 1; it must be text in quotes"),
        (SLURM + "gpus_per_node = 8", "gpus_per_node and gres exclude each other"),
        (SLURM.replace("gpu:h200:8", "h200"), "gres is 'h200'; it must be like gpu:h200:8"),
        (SLURM.replace("/scratch", "scratch"), "it must be absolute"),
        (SLURM.replace("/scratch", "/nemo_run"), "must not contain /nemo_run"),
        (SLURM.replace("gres = ", "qos = "), "must say how many ranks a node holds"),
        (SLURM + "[cluster.ssh]\nhost='a'", "[cluster]: ssh: user is missing (user name on it)"),
        (SLURM + "[cluster.container]\nimage='a'\nmounts=['/x']", "must be 'outside:inside'"),
        (SLURM + "[cluster.environment]\nhf_home='x'", "environment.hf_home: NeMo-Run exports"),
        (SLURM + "[cluster.environment]\nHF_TOKEN='x'", "HF_TOKEN looks like a secret"),
        (SLURM + "kind = 'slurm'", "is not TOML"),
        (SLURM.replace("slurm", "slrum"), "kind is 'slrum' (did you mean 'slurm'?)"),
        ("account = 'x'", "account stands outside of a site's table"),
        (LEPTON.replace("/shared/jobs", "/jobs"), "job_directory '/jobs' lies in none of the moun"),
        ("[docker]\nkind='nemo_run'\nexecutor='x'\nranks_per_node=0", "ranks_per_node is 0; it m"),
        (LEPTON + "[lepton.secrets]\nA='hf_x y/z'", "must be the name of a secret"),
        (SLURM + "[cluster.stages.evalute]", "no stage 'evalute' (did you mean 'evaluate'?)"),
        (
            SLURM + "[cluster.stages.prune]\ntim='1'",
            "stages.prune: unknown setting 'tim'",
        ),
        (SLURM + "[cluster.stages.prune]\ntime='noon'", "stages.prune: time is 'noon'"),
        (SLURM + "[cluster.stages.prune]\nroot='/x'", "root holds for all stages; set it outside"),
        (SLURM + "[cluster.stages]\nprune=1", "stages must hold a table a stage"),
        (SLURM + "stop_seconds = 3600", "stop_seconds is 3600; it must be above 0 and below time"),
        (SLURM + "stop_seconds = 0", "stop_seconds is 0; it must be above 0 and below time (01:00"),
        (SLURM + "array = '1-8'", "array is '1-8'; it must be like 1-8%1"),
        (SLURM + "array = '1-8%2'", "array is '1-8%2'; it must be like 1-8%1"),
        (SLURM + "[cluster.sbatch]\ntime='1'", "sbatch.time: time says that; remove it here"),
        (
            SLURM + "[cluster.sbatch]\nntasks_per_node=1",
            "sbatch.ntasks_per_node: parallel says tha",
        ),
        (SLURM + "[cluster.sbatch]\n'no mem'=1", "sbatch.no mem: must be an option's long name"),
        (SLURM + "[cluster.fault_tolerance]\nrestarts=0", "restarts is 0; it must be at least 1"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_its_place(write, text, message):
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        load_sites(path)
    said = str(caught.value)
    assert said.startswith(str(path))
    assert message in said
    assert "\n" not in said


def test_an_unknown_site_and_an_absent_file_are_told(write, tmp_path):
    path = write(SLURM)
    with pytest.raises(ConfigError, match=r"unknown site 'clutser' \(did you mean 'cluster'\?\)"):
        find_site("clutser", path)
    with pytest.raises(ConfigError, match="does not exist; `bielik launch init` writes one"):
        find_site("cluster", tmp_path / "absent.toml")


def test_a_site_is_changed_for_once_and_checked_again(write):
    path = write(SLURM)
    changed = find_site("cluster", path, ["time=00:30:00", "partition=debug"])
    assert (changed.time, changed.partition) == ("00:30:00", "debug")
    with pytest.raises(ConfigError, match=r"unknown setting 'tim' \(did you mean 'time'\?\)"):
        find_site("cluster", path, ["tim=1"])
    with pytest.raises(ConfigError, match="time is 'noon'"):
        find_site("cluster", path, ["time=noon"])


def test_a_stage_has_what_its_table_says_and_else_what_the_site_says(write):
    path = write(
        SLURM + "[cluster.container]\nimage='all'\nmounts=['/a:/a']\n"
        "[cluster.stages.evaluate]\ntime='02:00:00'\n[cluster.stages.evaluate.container]\n"
        "image='own'\n"
    )
    site = find_site("cluster", path)
    assert (site.time, site.of("evaluate").time) == ("01:00:00", "02:00:00")
    own, common = site.of("evaluate").container, site.of("distill").container
    assert (own.image, common.image) == ("own", "all")
    assert own.mounts == common.mounts == ["/a:/a"]
    assert site.of("distill") is site


def test_words_change_a_site_for_one_stage_or_for_all(write):
    path = write(SLURM + "[cluster.stages.evaluate]\ntime='02:00:00'\n")
    site = find_site("cluster", path, ["distill.time=3-00:00:00", "partition=gpu"])
    assert (site.time, site.of("distill").time) == ("01:00:00", "3-00:00:00")
    assert site.of("evaluate").time == "02:00:00"
    assert {site.of(stage).partition for stage in ("evaluate", "distill", "prune")} == {"gpu"}
    assert find_site("cluster", path, ["time=00:10:00"]).of("evaluate").time == "00:10:00"
    with pytest.raises(ConfigError, match="executor cluster, distill: unknown setting 'tim'"):
        find_site("cluster", path, ["distill.tim=1"])


@pytest.mark.parametrize("key", ["root='/x'", "job_directory='/x'", "ssh.host=x", "kind=local"])
def test_what_holds_for_the_whole_site_is_no_word_of_a_stage(write, key):
    name = key.split("=")[0].split(".")[0]
    with pytest.raises(ConfigError, match=rf"cluster, prune: {name} holds for all stages"):
        find_site("cluster", write(SLURM), [f"prune.{key}"])


#: Of the forms that these services give out; none of them was ever valid.
TOKENS = (
    "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567",
    "sk-proj-" + "a1B2c3D4e5F6g7H8i9J0_k1L2-m3N4",
    "nvapi-" + "Zz0-_" * 10,
    "ghp_" + "0123456789abcdefghijklmnopqrstuvwxyz",
    "github_pat_" + "11ABCDEFG0123456789abc",
    "0123456789abcdef" * 2,
)
DOCKER = "[docker]\nkind='nemo_run'\nexecutor='DockerExecutor'\n[docker.secrets]\nruntime='{}'\n"


@pytest.mark.parametrize("token", TOKENS)
def test_a_secret_in_the_place_of_its_name_is_refused_and_not_shown(write, token):
    for text in (LEPTON + f"[lepton.secrets]\nA='{token}'\n", DOCKER.format(token)):
        with pytest.raises(ConfigError, match=r"must be the name of a .*, not its value") as caught:
            load_sites(write(text))
        assert token not in str(caught.value)


@pytest.mark.parametrize("name", ["hf-token", "hf_token", "HF_TOKEN", "wandb.key", "sk-openai"])
def test_names_of_secrets_are_taken(write, name):
    site = find_site("lepton", write(LEPTON + f"[lepton.secrets]\nA='{name}'\n"))
    assert site.secrets == {"A": name}


@pytest.mark.parametrize(
    ("limit", "expected"),  # as `man sbatch` lists the forms
    [("90", 5400), ("90:30", 5430), ("1:30:05", 5405), ("2-12", 216_000), ("1-01:30", 91_800)]
    + [("1-00:00:01", 86_401)],
)
def test_time_limits_are_read_as_slurm_reads_them(limit, expected):
    assert seconds(limit) == expected


@pytest.mark.parametrize(("ranks", "slots"), [(1, (1, 1)), (4, (1, 4)), (8, (1, 8)), (16, (2, 8))])
def test_ranks_fill_nodes(write, ranks, slots):
    assert find_site("cluster", write(SLURM)).slots(ranks) == slots


def test_ranks_that_do_not_fill_nodes_are_refused(write):
    site = find_site("cluster", write(SLURM + "max_nodes = 2\n"))
    with pytest.raises(ConfigError, match="12 ranks, which do not fill nodes of 8"):
        site.slots(12)
    with pytest.raises(ConfigError, match="24 ranks, 3 nodes of 8, but max_nodes is 2"):
        site.slots(24)
