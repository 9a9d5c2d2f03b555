import asyncio
import threading

from train_jobs.formation.probing import Probes


class Nodes:
    def __init__(self, *deaf):
        self.deaf, self.asked, self.gate = set(deaf), [], threading.Event()
        self.gate.set()

    def __call__(self, node):
        self.asked.append(node)
        assert self.gate.wait(5)
        if node == "unknown":
            raise ConnectionError("the cluster does not answer")
        return node not in self.deaf


async def _looked(probes, silent):
    probes.look(silent)
    await asyncio.gather(*probes._asked.values(), return_exceptions=True)
    return probes.look(silent)


def test_a_node_is_silent_when_it_was_asked_and_did_not_answer():
    async def scene():
        nodes = Nodes("cut")
        probes = Probes(nodes, "own")
        assert probes.look({"cut"}) == set()
        assert await _looked(probes, {"cut", "busy", "own", "unknown"}) == {"cut"}
        assert "own" not in nodes.asked
        nodes.deaf.clear()
        await asyncio.gather(*probes._asked.values(), return_exceptions=True)
        assert await _looked(probes, {"cut"}) == set()

    asyncio.run(scene())


def test_one_whose_workers_are_heard_again_is_not_silent_any_more():
    async def scene():
        probes = Probes(Nodes("cut"), "own")
        assert await _looked(probes, {"cut"}) == {"cut"}
        assert probes.look(set()) == set()
        await asyncio.gather(*probes._asked.values())

    asyncio.run(scene())


def test_a_question_that_takes_long_is_not_asked_twice():
    async def scene():
        nodes = Nodes("cut")
        nodes.gate.clear()
        probes = Probes(nodes, "own")
        for _ in range(3):
            assert probes.look({"cut"}) == set()
            await asyncio.sleep(0.02)
        assert nodes.asked == ["cut"]
        nodes.gate.set()
        await asyncio.gather(*probes._asked.values())

    asyncio.run(scene())
