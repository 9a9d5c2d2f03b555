from types import SimpleNamespace

from serve_apps.engine_load import EngineLoad


def scheduler(waiting, kv_cache):
    return SimpleNamespace(num_waiting_reqs=waiting, kv_cache_usage=kv_cache)


def iteration(*ttfts):
    return SimpleNamespace(time_to_first_tokens_iter=list(ttfts))


def test_the_last_step_counts_and_recent_first_tokens_are_averaged():
    now = [0.0]
    load = EngineLoad(lambda: 7, clock=lambda: now[0])
    load.record(scheduler(2, 0.25), iteration(1.0))
    now[0] = 31.0
    load.record(scheduler(3, 0.5), iteration(0.2, 0.4))
    load.record(None, None)
    stats = load.stats()
    assert stats == {
        "asked": 0.0,
        "ongoing": 7.0,
        "waiting": 3.0,
        "kv_cache": 0.5,
        "ttft_s": stats["ttft_s"],
        "kept": 0.0,
        "needed": 0.0,
        "reserved": 0.0,
    }
    assert abs(stats["ttft_s"] - 0.3) < 1e-9


def test_an_engine_without_requests_is_idle_whatever_it_said_last():
    load = EngineLoad(lambda: 0)
    load.record(scheduler(3, 0.5), None)
    assert set(load.stats().values()) == {0.0}


def test_what_a_rollout_keeps_is_told():
    load = EngineLoad(lambda: 0)
    load.kept, load.needed, load.reserved = True, 3, True
    told = load.stats()
    assert (told["kept"], told["needed"], told["reserved"]) == (1.0, 3.0, 1.0)


def test_requests_are_told_once():
    load = EngineLoad(lambda: 0)
    load.asked()
    load.asked()
    assert load.stats()["asked"] == 2.0
    assert load.stats()["asked"] == 0.0
