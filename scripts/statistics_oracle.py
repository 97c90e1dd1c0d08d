"""Checks the statistics of `compare` and `gate` against scipy and statsmodels, and by simulation.

usage: python scripts/statistics_oracle.py PATH_TO_SWALLOW_EVAL [--quick]

Needs scipy, statsmodels and numpy. Makes baseline files with simulated scores, has the program compare them, and computes the same with
other people's code. Ends with status 1 when a check fails. The committed output is scripts/statistics_oracle.txt.
"""

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import scipy
import statsmodels
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

PROGRAM = str(Path(sys.argv[1]).resolve())
QUICK = "--quick" in sys.argv
WORK = Path(tempfile.mkdtemp())
failures = 0


def check(name, good, detail):
    global failures
    failures += not good
    print(f"{'ok  ' if good else 'FAIL'}  {name}: {detail}")


def side(name, tasks, metric="exact_match"):
    """A baseline file: a task for each list of values."""
    entries = []
    for i, values in enumerate(tasks):
        values = [float(v) for v in values]
        entries.append(
            dict(
                task=f"t{i}", title=f"t{i}", metric=metric, value=float(np.mean(values)), half_width_95=None, failed=0, shots=4,
                task_sha256="aa", data_sha256="bb", signature="s", documents=[str(k) for k in range(len(values))], values=values,
            )
        )
    path = WORK / f"{name}.json"
    path.write_text(json.dumps(dict(version=1, run=name, protocol="p", suite="ja", model="m", demo=False, tasks=entries)))
    return path


def compare(base, cand):
    out = subprocess.run([PROGRAM, "compare", base, cand, "--format", "json"], capture_output=True, text=True, cwd=WORK)
    assert out.returncode == 0, out.stderr
    rows = json.loads(out.stdout)["rows"]
    return [row for row in rows if row["kind"] == "ours"]


def gate(name, base, cand, policy):
    files = side(f"{name}-b", base), side(f"{name}-c", cand)
    code = subprocess.run([PROGRAM, "gate", *files, "--policy", policy], capture_output=True, cwd=WORK).returncode
    assert code in (0, 1, 6), code
    for file in files:
        file.unlink()
    return code


def pairs(rng, n, accuracy, drop, agreement=0.8):
    """Two models on the same documents: a share of the documents is answered by a common coin, the rest by coins of their own."""
    common = rng.random(n) < agreement
    coin = rng.random(n)
    base = np.where(common, coin, rng.random(n)) < accuracy
    cand = np.where(common, coin, rng.random(n)) < accuracy - drop
    return base.astype(float), cand.astype(float)


def mcnemar_and_holm(rng):
    worst = 0.0
    for family in (1, 3, 27):
        base, cand = zip(*(pairs(rng, int(rng.integers(20, 900)), 0.7, rng.choice([0, 0.03, 0.1])) for _ in range(family)))
        p = []
        for b, c in zip(base, cand):
            better, worse = int(((c > b)).sum()), int((c < b).sum())
            by_statsmodels = mcnemar([[0, better], [worse, 0]], exact=True).pvalue
            by_scipy = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
            assert abs(by_statsmodels - by_scipy) < 1e-9
            p.append(by_statsmodels)
        holm = multipletests(p, method="holm")[1]
        ours = [row["p_holm"] for row in compare(side("b", base), side("c", cand))]
        worst = max(worst, float(np.max(np.abs(holm - ours))))
    check("McNemar exact and Holm, statsmodels and scipy", worst < 1e-9, f"31 tasks in 3 families, largest difference {worst:.1e}")


def intervals(rng):
    """Percentile bootstrap of scipy on the same differences; both are random, so they agree to a share of the interval's width."""
    worst = 0.0
    values = [np.clip(rng.normal(0.6, 0.3, 300).round(2), 0, 1) for _ in range(6)]
    others = [np.clip(v + rng.normal(-0.01, 0.1, 300).round(2), 0, 1) for v in values]
    for row, b, c in zip(compare(side("b", values, "char_f1"), side("c", others, "char_f1")), values, others):
        theirs = stats.bootstrap((c - b,), np.mean, n_resamples=20000, method="percentile", rng=rng).confidence_interval
        width = theirs.high - theirs.low
        worst = max(worst, abs(row["low_95"] - theirs.low) / width, abs(row["high_95"] - theirs.high) / width)
        sem = stats.sem(c - b)
        detectable = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * sem
        assert abs(row["detectable"] - detectable) < 1e-9, (row["detectable"], detectable)
    check("bootstrap interval, scipy.stats.bootstrap", worst < 0.03, f"6 tasks of 300, ends differ by at most {100 * worst:.1f} % of the width")
    check("minimum detectable effect, scipy norm and sem", True, "6 tasks, equal to 1e-9")


def randomisation(rng):
    """scipy's permutation test on pairs."""
    worst = 0.0
    for shift in (0.0, 0.02):
        b = np.clip(rng.normal(0.6, 0.3, 200).round(2), 0, 1)
        c = np.clip(b + rng.normal(-shift, 0.1, 200).round(2), 0, 1)
        ours = compare(side("b", [b], "char_f1"), side("c", [c], "char_f1"))[0]["p_holm"]
        test = stats.permutation_test((c, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", n_resamples=20000,
                                      vectorized=True, rng=rng)
        worst = max(worst, abs(ours - test.pvalue))
    check("paired randomisation, scipy.stats.permutation_test", worst < 0.02, f"2 tasks, largest difference of p {worst:.4f}")


def coverage(rng):
    simulations = 200 if QUICK else 2000
    for n in (250, 1000):
        for drop in (0.0, 0.03):
            base, cand = zip(*(pairs(rng, n, 0.7, drop) for _ in range(simulations)))
            rows = compare(side("b", base), side("c", cand))
            inside = np.mean([row["low_95"] <= -drop <= row["high_95"] for row in rows])
            check(f"coverage of the 95 % interval, n {n}, true difference {-drop:+.2f}", 0.93 <= inside <= 0.97,
                  f"{100 * inside:.1f} % of {simulations}")


def policy(name, text):
    path = WORK / name
    path.write_text(text)
    return path


def false_alarms(rng):
    simulations = 100 if QUICK else 1000
    rule = policy("strict.toml", "[default]\nmax_drop = 0.0\nalpha = 0.05\n")
    cases = [(i, [pairs(rng, 250, 0.7, 0.0) for _ in range(5)]) for i in range(simulations)]
    with ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(lambda case: gate(f"f{case[0]}", *zip(*case[1]), rule), cases))
    alarms = codes.count(1) / simulations
    # Two standard errors of simulation above alpha would be 0.064.
    check("false alarms of the gate, equal models, 5 tasks of 250, max_drop 0, alpha 0.05", alarms <= 0.05,
          f"{100 * alarms:.1f} % NO-GO, {100 * codes.count(6) / simulations:.1f} % INCONCLUSIVE of {simulations}")


def power(rng):
    simulations = 20 if QUICK else 100
    rule = policy("point.toml", "[default]\nmax_drop = 0.01\nalpha = 0.05\n")
    sizes, drops = (100, 250, 1000, 3500), (0.02, 0.03, 0.05, 0.10)
    print(f"\nNO-GO in % of {simulations} gates of one task (accuracy 0.7, 80 % of documents shared fate, max_drop 0.01, alpha 0.05)")
    print("     n " + "".join(f"{-drop:>8.2f}" for drop in drops))
    for n in sizes:
        shares = []
        for drop in drops:
            cases = [(i, pairs(rng, n, 0.7, drop)) for i in range(simulations)]
            with ThreadPoolExecutor(2) as pool:
                codes = list(pool.map(lambda case: gate(f"p{case[0]}", [case[1][0]], [case[1][1]], rule), cases))
            shares.append(100 * codes.count(1) / simulations)
        print(f"{n:>6} " + "".join(f"{share:>8.0f}" for share in shares), flush=True)


def main():
    version = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True).stdout.strip()
    print(f"{version}; scipy {scipy.__version__}, statsmodels {statsmodels.__version__}, numpy {np.__version__}")
    rng = np.random.default_rng(20240731)
    for test in (mcnemar_and_holm, intervals, randomisation, coverage, false_alarms, power):
        test(rng)
    sys.exit(failures > 0)


main()
