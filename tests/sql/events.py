"""Events as docs/events.md describes them, and random histories of a table."""

import base64
import json
import random

UNAVAILABLE = "__debezium_unavailable_value"
# Mark in place of a value that OVERSIZE=omit removed.
OMITTED = "__omitted_because_of_its_size"


def at(commit, change=0, index=0):
    return f"{commit:016x}.{change:016x}.{index:08x}"


def event(op, position, before=None, after=None, source="orders", table="orders", **of_source):
    return {
        "before": before,
        "after": after,
        "source": {"name": source, "schema": "public", "table": table, "position": position, **of_source},
        "op": op,
    }


def row(id, customer="Ada", amount="12.50", body="long", placed="2026-11-23T12:00:00Z"):
    return {"id": id, "customer": customer, "amount": amount, "placed": placed, "body": body}


def message(prefix, position, content, source="orders"):
    text = base64.b64encode(json.dumps(content).encode()).decode()
    return {"op": "m", "source": {"name": source, "position": position}, "message": {"prefix": prefix, "content": text}}


class History:
    """A random history of a table, as events and as the rows that it leaves."""

    def __init__(self, seed, source, identity_full=False, some_columns=False):
        self.random, self.source = random.Random(f"{seed} {source}"), source
        # Whether a delete has the whole old row (replica identity full).
        self.identity_full = identity_full
        self.rows, self.events, self.at = {}, [], 0
        for _ in range(40):
            self.step()
            if some_columns and self.rows:
                self.read_again()

    def say(self, op, key=None, body=None, known=True, index=0):
        is_omitted = known and body == OMITTED
        after = row(key, str(self.at), body=body if known and not is_omitted else UNAVAILABLE) if op in "cur" else None
        before = {"id": key} if op == "d" else None
        if before and self.identity_full:
            before = row(key, str(self.rows[key][0]), body=self.rows[key][1])
        omitted = {"omitted": ["body"]} if is_omitted else {}
        self.events.append((key, event(op, at(self.at, self.at, index), before, after, self.source, **omitted)))

    def new_body(self):
        return self.random.choice([f"body {self.at}", f"body {self.at}", f"body {self.at}", None, OMITTED])

    def step(self):
        self.at += 1
        key, other = self.random.sample(range(4), 2)
        chance = self.random.random()
        if chance < 0.03:
            self.say("t")
            self.rows.clear()
        elif key not in self.rows:
            self.rows[key] = (self.at, self.new_body())
            self.say("c", key, self.rows[key][1])
        elif chance < 0.15:
            self.say("d", key)
            del self.rows[key]
        elif chance < 0.45 and other not in self.rows:
            known = chance < 0.25
            body = self.new_body() if known else self.rows[key][1]
            self.say("d", key)
            self.say("c", other, body, known, index=1)
            del self.rows[key]
            self.rows[other] = (self.at, body)
        else:
            known = chance < 0.6
            body = self.new_body() if known else self.rows[key][1]
            self.say("u", key, body, known)
            self.rows[key] = (self.at, body)

    def read_again(self):
        """A row of a backfill of some columns."""
        self.at += 1
        key = self.random.choice(sorted(self.rows))
        whole = row(key, str(self.rows[key][0]))
        some = {column: whole[column] for column in self.random.sample(["customer", "amount", "placed"], 2)}
        self.events.append((key, event("r", at(self.at), None, {"id": key} | some, self.source)))

    def expected(self):
        return [(self.source, key, str(at), "12.50", body) for key, (at, body) in self.rows.items()]


def deliver(history, chance):
    """Batches of (shard, event): in order for each key, a truncate after all before it, and parts sent again."""
    events, batches, done = history.events, [], 0
    while done < len(events):
        barrier = next((n for n in range(done, len(events)) if events[n][0] is None), len(events))
        section = events[done:barrier]
        lanes = {key: [e for k, e in section if k == key] for key in {k for k, _ in section}}
        while any(lanes.values()):
            batch = []
            for key, lane in sorted(lanes.items()):
                count = chance.randint(0, len(lane))
                batch += [(key % 3, e) for e in lane[:count]]
                lanes[key] = lane[count:]
            batches.append(batch)
        if chance.random() < 0.3:
            again = section[chance.randint(0, len(section)) :]
            batches.append([(key % 3, e) for key, e in again])
        if barrier < len(events):
            batches.append([(0, events[barrier][1])])
        done = barrier + 1
    return batches
