"""Says what of an uplink with rules had to arrive and has not, or has and had not to, with librdkafka at both ends and rules of its own.

uplink_rules.py SOURCE TARGET CLUSTER SITE YOUNG INTERVAL EVERY

Topics: filtered (level > 1, reduced to seq and level), lasts (of each key and interval the last old record), means (of each key and interval one old record), nths (each
EVERY-th old record of a key at least). What is stamped at YOUNG or later is carried whole. Prints one JSON object: for each topic records, arrived, means, and faults.
"""
import json
import math
import sys
from collections import defaultdict

from uplink_compare import ORIGIN, read

SOURCE, TARGET, CLUSTER, SITE = sys.argv[1:5]
YOUNG, INTERVAL, EVERY = map(int, sys.argv[5:8])


class Topic:
    def __init__(self, name):
        self.name, self.faults = name, []
        self.want = {(m.partition(), m.offset()): m for m in read(SOURCE, name)}
        self.plain, self.means, last = {}, [], {}
        for m in read(TARGET, f"{SITE}.{name}"):
            headers = m.headers() or []
            origin = [v.decode() for k, v in headers if k == ORIGIN][-1]
            cluster, topic, partition, at = origin.split("/")
            if (cluster, topic) != (CLUSTER, name):
                self.fault("strange", origin)
                continue
            first, _, end = at.partition("-")
            first, end = int(first), int(end or first)
            if end < last.get(partition, -1):
                self.fault("disordered", origin)
            last[partition] = end
            if end > first:
                self.means.append((int(partition), first, end, m, int(dict(headers)["weir.averaged"])))
            elif (int(partition), first) in self.plain:
                self.fault("twice", origin)
            else:
                self.plain[int(partition), first] = m

    def fault(self, kind, what):
        self.faults.append(f"{kind}: {what}")

    def unchanged(self, at):
        a, b = self.want[at], self.plain[at]
        own = (b.headers() or [])[: len(a.headers() or [])]
        if (a.key(), a.value(), a.timestamp()[1], a.headers() or []) != (b.key(), b.value(), b.timestamp()[1], own):
            self.fault("differs", at)

    def old(self):
        """Old records in the order of their partition; all young ones must be there."""
        for at in sorted(self.want):
            m = self.want[at]
            if m.timestamp()[1] >= YOUNG:
                if at not in self.plain:
                    self.fault("young and missing", at)
            else:
                yield at, m, (at[0], m.key(), m.timestamp()[1] // INTERVAL)

    def report(self):
        return dict(records=len(self.want), arrived=len(self.plain), means=len(self.means), faults=self.faults[:20])


def filtered():
    t = Topic("filtered")
    for at, m in t.want.items():
        v = json.loads(m.value())
        if (at in t.plain) != (v["level"] > 1):
            t.fault("by the filter", (at, v["level"]))
        elif at in t.plain and json.loads(t.plain[at].value()) != {"seq": v["seq"], "level": v["level"]}:
            t.fault("reduced to", t.plain[at].value())
    return t


def lasts():
    t, last = Topic("lasts"), {}
    for at, _, group in t.old():
        last[group] = at
    for at in last.values():
        if at not in t.plain:
            t.fault("the last, and missing", at)
    for at in t.plain:
        t.unchanged(at)
    return t


def nths():
    t, row = Topic("nths"), defaultdict(int)
    for at, m, _ in t.old():
        row[at[0], m.key()] = 0 if at in t.plain else row[at[0], m.key()] + 1
        if row[at[0], m.key()] >= EVERY:
            t.fault("too many in a row", at)
    for at in t.plain:
        t.unchanged(at)
    return t


def means():
    t, groups = Topic("means"), defaultdict(list)
    for at, m, group in t.old():
        if at not in t.plain:
            groups[group].append((at[1], json.loads(m.value())["temp"]))
    for partition, first, end, m, count in t.means:
        group = partition, m.key(), m.timestamp()[1] // INTERVAL
        mine = [temp for at, temp in groups[group] if first <= at <= end]
        groups[group] = [x for x in groups[group] if not first <= x[0] <= end]
        got = json.loads(m.value())["temp"]
        if len(mine) != count or not math.isclose(got["mean"], math.fsum(mine) / count, abs_tol=1e-9) or (got["min"], got["max"]) != (min(mine), max(mine)):
            t.fault("mean of others", (partition, first, end))
    for group, rest in groups.items():
        if rest:
            t.fault("in no mean, and missing", (group[0], rest[0]))
    for at in t.plain:
        t.unchanged(at)
    return t


print(json.dumps({t.name: t.report() for t in (filtered(), lasts(), nths(), means())}))
