"""Real hosts on one machine, for tests of a cluster and of what befalls it.

A host is a set of Linux namespaces with an address, a process table, a home, /tmp, /dev/shm and an sshd of
its own; the rest of the file system is this machine's, read-only. The hosts hang on one switch, itself a
namespace, so that nothing appears in this machine's own network, and share one directory, /mnt/linnet, as
they would share NFS. All of it lives by its processes: destroyed, or when the process that made it dies by
whatever means, it is gone.

    with Network.create(["desk", "head", "worker1"]) as network:
        worker = network["worker1"]
        worker.run("hostname")                  # by ssh; `inside` is the console, which needs no network
        with faults.cut(worker): ...            # and lose_packets, throttle, full_disk, freeze
        worker.kill()                           # the power fails
        network.boot("worker1")                 # and returns; home and /tmp are as they were

        with cluster.up(network, desk="desk", head="head", workers=["worker1"]) as running:
            running.on_head("ray status")       # cluster.yaml, brought up by `ray up`

    with Site.up() as site, site.submit(spec_of("a-run")) as run:     # training.py: that, and a job on it
        run.reach(20)

Needs root and the packages that .dev/setup-hosts installs; `system.why_not` says what is missing.
"""
