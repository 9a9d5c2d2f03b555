from train_jobs.run_files import AttemptRecord, StepRecord, Tail


def step(number, attempt=1, at=0.0):
    return StepRecord(
        step=number, loss=0.1 + 0.2, grad_norm=1.0, learning_rate=1e-3, tokens=10, tokens_per_s=5.0,
        step_s=2.0, attempt=attempt, at=at,
    )  # fmt: skip


def test_a_run_without_journals_has_no_lines(files):
    assert files.read_steps() == []
    assert files.read_attempts() == []


def test_lines_come_back_to_the_last_bit(files):
    files.add_step(step(1))
    files.add_step(step(2))
    assert files.read_steps() == [step(1), step(2)]


def test_a_line_that_a_crash_cut_short_is_passed_over_and_spoils_no_later_one(files):
    files.add_step(step(1))
    path = files.storage.local_path(files.metrics)
    with path.open("ab") as journal:
        journal.write(b'{"step": 2, "lo')
    assert files.read_steps() == [step(1)]
    files.add_step(step(2, attempt=2))
    assert files.read_steps() == [step(1), step(2, attempt=2)]


def test_attempts_come_back(files):
    record = AttemptRecord(
        attempt=1, at=1.5, launch="a", resumed_from_step=0, skipped=["x"],
        workers=[{"rank": 0, "pid": 7, "node_ip": "10.0.0.1"}],
    )  # fmt: skip
    files.add_attempt(record)
    assert files.read_attempts() == [record]


def test_a_tail_reads_each_line_once_and_a_torn_one_when_it_is_whole(files, monkeypatch):
    tail = Tail(files.storage, files.metrics)
    assert tail.read() == []
    files.add_step(step(1))
    path = files.storage.local_path(files.metrics)
    with path.open("ab") as journal:
        journal.write(b'{"step": 2')
    assert [line["step"] for line in tail.read()] == [1]
    with path.open("ab") as journal:
        journal.write(b"}\n")
    offsets = []
    read_from = type(files.storage).read_from
    monkeypatch.setattr(
        type(files.storage),
        "read_from",
        lambda self, path, offset: offsets.append(offset) or read_from(self, path, offset),
    )
    first = len(step(1).model_dump_json()) + 1
    assert tail.read() == [{"step": 2}]
    assert tail.read() == []
    assert offsets == [first, path.stat().st_size]


def test_a_tail_passes_over_what_a_crash_cut_short(files):
    tail = Tail(files.storage, files.metrics)
    files.storage.append_line(files.metrics, b'{"step": 1}')
    with files.storage.local_path(files.metrics).open("ab") as journal:
        journal.write(b'{"step": 2, "lo')
    assert tail.read() == [{"step": 1}]
    files.storage.append_line(files.metrics, b'{"step": 3}')
    assert tail.read() == [{"step": 3}]
