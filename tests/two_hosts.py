"""One of two processes that train together; started by test_training_hosts.py."""

import sys

import jax

if __name__ == "__main__":
    host, port, workdir, source = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=host)
    import tiny

    from colorize_jax.data import pipeline
    from colorize_jax.training import loop

    plain = pipeline.HostRows.__getitem__

    def telling(self, index):
        row = plain(self, index)
        if isinstance(self.examples, pipeline.TrainingExamples):
            print("read", row["position"], flush=True)
        return row

    pipeline.HostRows.__getitem__ = telling
    loop.train(tiny.config(data__source=source, data__holdout=0.3, data__threads=0), workdir)
