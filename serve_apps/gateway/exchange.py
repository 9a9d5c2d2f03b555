"""One proxied request, from its headers to the last byte of its answer."""

from __future__ import annotations

import asyncio
import logging
import time

from cluster.state.losses import Signal
from serve_apps.gateway import headers, openai_errors, selection, tokens
from serve_apps.gateway.access import ANONYMOUS
from serve_apps.gateway.admission import Slot
from serve_apps.gateway.asgi import (
    HangUp,
    Message,
    RawHeaders,
    Receive,
    Scope,
    Send,
    StalledReaderError,
    patient,
    read_body,
    send_refusal,
    send_whole,
    start_message,
)
from serve_apps.gateway.judged import Asked, Watch
from serve_apps.gateway.limits import Ticket
from serve_apps.gateway.metrics import NONE
from serve_apps.gateway.observation import Notes
from serve_apps.gateway.openai_errors import Refusal
from serve_apps.gateway.outcome import HUNG_UP
from serve_apps.gateway.parts import Parts
from serve_apps.gateway.plan import Plan, make_plan
from serve_apps.gateway.routes import CONTINUED
from serve_apps.gateway.selection import Choice
from serve_apps.gateway.stream import DONE, MARK, Stream
from serve_apps.gateway.task_output import AnswerCheck
from serve_apps.gateway.trace import CANCELLED
from serve_apps.gateway.upstream import Answer, Call

_log = logging.getLogger(__name__)


class Exchange:
    """Reads, chooses, forwards, answers and counts."""

    def __init__(self, parts: Parts, scope: Scope, receive: Receive, send: Send, route: str) -> None:
        self._parts = parts
        self._scope = scope
        self._receive = receive
        self._send = patient(send, parts.config.reader_timeout_s)
        self._route = route
        self._started = time.perf_counter()
        self._headers: RawHeaders = list(scope["headers"])
        self._request_id = headers.request_id(self._headers)
        text_bytes = parts.access_log.text_bytes() if parts.access_log else 0
        self._trace = parts.tracer.begin(self._headers, route)
        self._notes = Notes(self._headers, self._request_id, route, text_bytes)
        self._caller = ANONYMOUS
        self._lane = ""
        self._choice: Choice | None = None
        self._check: AnswerCheck | None = None
        self._watch: Watch | None = None
        self._status = HUNG_UP
        self._begun = False

    async def run(self) -> None:
        """Never raises for a caller's or a replica's fault; passes a cancellation on."""
        try:
            await self._serve()
        except StalledReaderError:
            _log.warning("the caller of request %s stopped reading", self._request_id.decode())
            self._status = HUNG_UP
            raise
        except Exception:
            _log.exception("request %s failed in the gateway", self._request_id.decode())
            if self._begun:
                self._notes.error_code = openai_errors.internal().code
                raise
            await self._refuse(openai_errors.internal())
        finally:
            model, version = (self._choice.model, self._choice.version) if self._choice else (NONE, NONE)
            elapsed = time.perf_counter() - self._started
            self._parts.metrics.answered(model, version, self._route, self._status, elapsed)
            self._record(model, version, elapsed)

    async def _serve(self) -> None:
        caller = self._parts.access.identify(self._headers)
        if isinstance(caller, Refusal):
            await self._refuse(caller)
            return
        self._caller = caller
        ticket = caller.meter.enter()
        if isinstance(ticket, Refusal):
            await self._refuse(ticket)
            return
        try:
            await self._take(ticket)
        finally:
            ticket.leave()

    async def _take(self, ticket: Ticket) -> None:
        config = self._parts.config
        try:
            async with asyncio.timeout(config.body_timeout_s):
                body = await read_body(self._scope, self._receive, config.max_body_bytes)
        except TimeoutError:
            body = openai_errors.body_too_slow(config.body_timeout_s)
        if isinstance(body, Refusal):
            await self._refuse(body)
            return
        if body is None:
            return
        self._notes.asked(body)
        plan = self._plan(body, ticket)
        if isinstance(plan, Refusal):
            await self._refuse(plan)
            return
        self._choice = plan.choice
        if (judged := self._parts.judged) is not None:
            asked = Asked(plan, self._route, self._headers, self._request_id)
            self._watch = judged.begin(asked, self._notes)
        if plan.task is not None:
            self._notes.task = plan.task.name
            self._check = plan.task.check()
        async with HangUp(self._receive) as hang_up:
            await self._let_in(plan, ticket, hang_up)

    async def _let_in(self, plan: Plan, ticket: Ticket, hang_up: HangUp) -> None:
        choice = plan.choice
        slot = await self._enter(choice)
        if isinstance(slot, Refusal):
            hang_up.ignore()
            await self._refuse(slot)
            return
        self._parts.metrics.began(choice.model, choice.version)
        try:
            await self._answer(plan, ticket, hang_up)
        finally:
            slot.leave()
            self._parts.metrics.ended(choice.model, choice.version)

    async def _enter(self, choice: Choice) -> Slot | Refusal:
        waiting = self._trace.waits()
        error = CANCELLED
        try:
            outcome = await self._parts.admission.enter(choice, self._lane)
            error = outcome.code if isinstance(outcome, Refusal) else ""
        finally:
            waiting.end(error=error)
        return outcome

    def _plan(self, body: bytes, ticket: Ticket) -> Plan | Refusal:
        ask = selection.parse_ask(body)
        if isinstance(ask, Refusal):
            return ask
        served = self._parts.config.models
        if refusal := self._caller.check_model(ask.model, served):
            return refusal
        self._lane = self._caller.lane(selection.named_key(self._headers, ask.user))
        choice = selection.select(
            ask,
            self._headers,
            served=self._caller.usable(served),
            versions=self._parts.directory.versions,
            policy=self._parts.policies.get,
            heard=self._parts.directory.ready(),
        )
        if isinstance(choice, Refusal):
            return choice
        plan = make_plan(ask, choice, self._route, body, self._parts.tasks)
        if isinstance(plan, Refusal):
            return plan
        return ticket.reserve(lambda: tokens.estimate(self._route, plan.body)) or plan

    async def _answer(self, plan: Plan, ticket: Ticket, hang_up: HangUp) -> None:
        config, choice, body = self._parts.config, plan.choice, plan.body
        call = Call(
            choice=choice,
            path=self._route,
            headers=headers.forwarded(
                self._headers, self._request_id, choice.version, tell=self._route in CONTINUED
            ),
            body=body,
            deadline=asyncio.get_running_loop().time() + config.request_timeout_s,
            patience_s=config.replica_wait_s,
            cold_s=config.cold_start_wait_s,
            notes=self._notes,
            trace=self._trace,
        )
        ticket.begin()
        outcome = await self._parts.upstream.fetch(call)
        if isinstance(outcome, Refusal):
            ticket.fail(outcome)
            hang_up.ignore()
            await self._refuse(outcome)
        elif outcome.streams:
            ttft_s = time.perf_counter() - self._started
            self._parts.metrics.first_event(choice.model, choice.version, ttft_s)
            stream = self._notes.streams(ttft_s)
            ticket.measure = lambda: stream.spent(tokens.of_prompt(body))
            await self._stream(outcome, call, stream, hang_up)
        else:
            answer = outcome
            ticket.measure = lambda: tokens.in_answer(answer.status, answer.first, body)
            await self._whole(answer, choice, hang_up)

    async def _whole(self, answer: Answer, choice: Choice, hang_up: HangUp) -> None:
        try:
            self._notes.answered(answer.first)
            self._complete(answer.status, hang_up)
            check = self._check if answer.status < 400 else None
            if check is not None and (refusal := check.whole(answer.first)) is not None:
                await self._refuse(refusal)
                return
            self._begun = True
            await send_whole(self._send, answer.status, self._signed(answer.headers, choice), answer.first)
        finally:
            answer.close()

    async def _stream(self, answer: Answer, call: Call, stream: Stream, hang_up: HangUp) -> None:
        choice, status = call.choice, answer.status
        self._begun = True
        last = b""
        head: Message | None = start_message(status, self._signed(answer.headers, choice))
        while (broken_by := await self._pass_on(answer, stream, hang_up, head)) is not None:
            _log.warning("a stream of %s:%s broke: %r", choice.model, choice.version, broken_by)
            call.rule_out(answer.replica_id)
            self._parts.watch.missed(answer.replica_id, Signal.DROPPED)
            further = await self._go_on(call, stream, broken_by)
            if isinstance(further, Refusal):
                self._parts.watch.failed(answer.replica_id)
                self._end_by(further)
                last = further.event()
                break
            self._parts.watch.continued(answer.replica_id)
            answer = further
            head = {"type": "http.response.body", "body": MARK, "more_body": True} if stream.sampled else None
        self._complete(status, hang_up)
        await self._send({"type": "http.response.body", "body": last, "more_body": False})

    async def _pass_on(
        self, answer: Answer, stream: Stream, hang_up: HangUp, head: Message | None
    ) -> Exception | None:
        """Send `head` and what a replica sends; returns the error that ended it before the stream's end."""
        try:
            if head is not None:
                await self._send(head)
            await self._send_events(stream.take(answer.first), answer, stream, hang_up)
            async for ready in answer.rest():
                await self._send_events(stream.take(ready), answer, stream, hang_up)
        finally:
            answer.close()
        return None if stream.is_done else answer.broken_by

    async def _send_events(self, events: bytes, answer: Answer, stream: Stream, hang_up: HangUp) -> None:
        if events and self._check is not None:
            events = self._checked(events, stream, self._check)
        if stream.is_done:
            # A caller may leave as soon as it has read this.
            self._complete(answer.status, hang_up)
        if events:
            await self._send({"type": "http.response.body", "body": events, "more_body": True})

    def _checked(self, events: bytes, stream: Stream, check: AnswerCheck) -> bytes:
        """The events, with an error in the place of `[DONE]` where the answer has another form."""
        refusal = check.events(events, done=stream.is_done)
        if refusal is None:
            return events
        self._end_by(refusal)
        return events.removesuffix(DONE) + refusal.event()

    def _end_by(self, refusal: Refusal) -> None:
        """A stream's last event is an error."""
        if self._choice is not None:
            self._parts.metrics.broken(self._choice.model, self._choice.version)
        self._notes.error_code = refusal.code

    async def _go_on(self, call: Call, stream: Stream, broken_by: Exception) -> Answer | Refusal:
        choice, resume = call.choice, stream.resume()
        if isinstance(broken_by, TimeoutError):
            limit_s = self._parts.config.request_timeout_s
            return openai_errors.upstream_timeout(choice.model, choice.version, limit_s)
        if resume is None or not self._parts.upstream.may_go_on(choice):
            return openai_errors.stream_broken(choice.model, choice.version)
        answer = await self._parts.upstream.fetch(call.resumed(resume))
        if isinstance(answer, Answer) and not answer.streams:
            answer.close()
            answer = openai_errors.stream_broken(choice.model, choice.version)
        if isinstance(answer, Answer):
            self._parts.metrics.continued(choice.model, choice.version)
            self._notes.continued += 1
        return answer

    def _complete(self, status: int, hang_up: HangUp) -> None:
        hang_up.ignore()
        self._status = status

    async def _refuse(self, refusal: Refusal) -> None:
        self._begun = True
        self._status = refusal.status
        self._notes.error_code = refusal.code
        self._parts.metrics.refused(refusal.code)
        await send_refusal(self._send, refusal, self._signed([], self._choice))

    def _record(self, model: str, version: str, elapsed: float) -> None:
        row = self._notes.finish(model, version, self._status, elapsed)
        self._parts.metrics.observed(row)
        self._trace.finish(row)
        if self._watch is not None and self._parts.judged is not None:
            self._parts.judged.finish(self._watch, row)
        log = self._parts.access_log
        if log is not None and log.add(row):
            self._parts.metrics.log_row_dropped()

    def _signed(self, found: RawHeaders, choice: Choice | None) -> RawHeaders:
        version = [(b"x-linnet-version", choice.version.encode())] if choice else []
        limits = self._caller.meter.headers()
        return [*found, *version, *limits, *self._parts.identity(self._request_id)]
