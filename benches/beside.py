#!/usr/bin/env python3
"""Times Everstep's workloads beside another engine's, alternating, and prints the ratio of each pair.

    cargo build --release -p everstep-benches --bin workloads
    python3 benches/beside.py --peer "python3 torch_bench.py" --rounds 7 mlp_step gpt_step

Both commands take workload names and print lines of JSON with "workload", "ms" and "peak_mib". Each workload runs in a
process of its own, ours and theirs in turn, so that a busy machine slows down both; medians of the ratios of
neighbours are robust against the rest.
"""
import argparse, json, shlex, statistics, subprocess


def run(command, name):
    output = subprocess.run([*shlex.split(command), name], check=True, capture_output=True, text=True).stdout
    return next(json.loads(line) for line in output.splitlines() if line.startswith("{"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+")
    parser.add_argument("--ours", default="target/release/workloads --device cpu --json")
    parser.add_argument("--peer", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(f"{'workload':20} {'ours ms':>9} {'peer ms':>9} {'ratio':>6} {'low':>6} {'high':>6} {'ours MiB':>9} {'peer MiB':>9}")
    for name in args.names:
        pairs = [(run(args.ours, name), run(args.peer, name)) for _ in range(args.rounds)]
        median = lambda side, key: statistics.median(pair[side][key] or 0.0 for pair in pairs)
        ratios = sorted(ours["ms"] / peer["ms"] for ours, peer in pairs)
        print(f"{name:20} {median(0, 'ms'):9.3f} {median(1, 'ms'):9.3f} {statistics.median(ratios):6.2f} {ratios[0]:6.2f} "
              f"{ratios[-1]:6.2f} {median(0, 'peak_mib'):9.1f} {median(1, 'peak_mib'):9.1f}", flush=True)


if __name__ == "__main__":
    main()
