"""How it learns: a task is done a step at each turn of the agent's loop, so that it is heard meanwhile (section 3.1)."""

import time
from collections.abc import Iterator

import numpy as np
from link import Link
from network import Network, canonical, gradient_of_loss, miou, must_be_known, read_names, read_split, sha256
from wire import Refusal, expect, read_tensors, write_tensors


class Learning:
    """The part of an agent that does tasks."""

    def take(self, link: Link, number: int, body: dict) -> None:
        named = {"task": body.get("key") or sha256(canonical(body["task"]).encode()), "attempt": body["attempt"]}
        expect(named["attempt"] >= self.fences.get(named["task"], 1), "fence", "that attempt is over")
        self.fences[named["task"]] = named["attempt"]
        self.lessons.append(self.learn(link, number, named, body))

    def learn(self, link: Link, number: int, named: dict, body: dict) -> Iterator[None]:
        """Does a task, a step at each turn of the loop. Whatever it cannot do is an error that names the task."""
        try:
            network, best, history, status = yield from self.steps(link, number, named, body)
        except (Refusal, KeyError, TypeError, ValueError, AttributeError) as problem:
            refusal = problem if isinstance(problem, Refusal) else Refusal("config", f"the task cannot be read: {problem!r}")
            link.say("ErrorReply", refusal.body | named, number)
            return
        weights = sha256(network.file())
        self.files[weights] = network.file()  # before it is said
        result = {"status": status, "weights": weights, "miou": best["miou"], "history": history}
        result |= {"epochs": len(history), "best_epoch": best["epoch"], "environment": {"numpy": np.__version__}}
        link.say("TaskReply", named | {"result": result}, number)

    def steps(self, link: Link, number: int, named: dict, body: dict) -> Iterator[None]:
        task, source = body["task"], body["task"]["data"]
        must_be_known(task)
        if source["content_digest"] not in self.data:
            raise Refusal("dataset", f"this agent has no data of the content {source['content_digest']}")
        folder = self.data[source["content_digest"]]
        train, validation = (read_split(folder, source[split]) for split in ("train", "validation"))
        recipe, classes, history, losses = task["recipe"], task["architecture"]["num_classes"], [], []
        network = Network(task["architecture"], np.zeros((classes, 3)), np.zeros(classes), self.names or read_names(folder))
        random, best, kept = np.random.default_rng(task["seed"]), None, None
        bounds = dict(enumerate(task.get("prune_below", []), start=1))
        size = min(recipe["batch_size"], len(train[0]))
        each = recipe["steps_per_epoch"] or len(train[0]) // size
        for step in range(1, each * recipe["epochs"] + 1):
            if (named["task"], named["attempt"]) in self.cancelled:
                raise Refusal("cancelled", "the coordinator cancelled it")
            chosen = random.permutation(len(train[0]))[:size]
            images, labels = train[0][chosen], train[1][chosen]
            taught = (yield from self.be_taught(task, body, images)) if task["kind"] == "distill" else None
            gradient, loss = gradient_of_loss(task, network.logits(images), labels, taught)
            network.step(images, gradient, recipe["learning_rate"])
            link.say("TaskProgressEvent", named | {"step": step, "steps": each * recipe["epochs"], "loss": loss}, number)
            self.progress += 1
            losses.append(loss)
            if step % each == 0:
                epoch = step // each
                is_validated = epoch % recipe["validate_every"] == 0 or epoch == recipe["epochs"]
                score = miou(network, *validation) if is_validated else None
                history.append({"epoch": epoch, "loss": float(np.mean(losses[-each:])), "miou": score, "seconds": 0.0})
                if is_validated and (recipe["keep"] == "last" or best is None or score > best["miou"]):
                    best, kept = history[-1], network.copy()
                if is_validated and max(one["miou"] or 0 for one in history) < bounds.get(epoch, 0):
                    return kept, best, history, "pruned"
            yield
        return kept, best, history, "completed"

    def be_taught(self, task: dict, body: dict, images: np.ndarray) -> Iterator[None]:
        """The teacher's logits for these images; others are served while it thinks."""
        (teacher,), asked = body["teachers"], {"kind": "soft_targets", "codec": "float32", "ways": ["inline"]}
        asked |= {"weights": teacher["weights"], "num_classes": task["architecture"]["num_classes"]}
        key, until = teacher["peer"]["public_key"], time.monotonic() + body["wait_s"]
        if key not in self.links:
            self.links[teacher["peer"]["public_key"]] = Link(self, teacher["peer"] | {"may": ()})
        while not self.links[key].session and time.monotonic() < until:
            yield
        number = self.links[key].say("KnowledgeRequest", asked, 0, (write_tensors({"images": images}),))
        self.answers[number] = None
        while self.answers[number] is None and time.monotonic() < until:
            yield
        reply, buffers = self.answers.pop(number) or ({"text": "it does not answer"}, [])
        if not buffers or sha256(buffers[0]) != reply["piece"]["sha256"]:
            raise Refusal("exchange", f"teacher {teacher['weights'][:12]}: {reply.get('text', 'a damaged piece')}")
        return read_tensors(buffers[0])["logits"].astype("<f4")
