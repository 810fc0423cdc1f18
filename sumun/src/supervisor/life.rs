//! Whether worker processes live: one whose event loops hang is replaced, and the service manager hears
//! of one that answers.

use std::time::Instant;

use sumun_engine::lifecycle::ToWorker;

use super::Supervisor;
use super::process::Phase;
use crate::limits::{QUESTION_EVERY, QUESTIONS_UNANSWERED};

/// What a worker process that serves is asked again and again: whether each of its threads answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Questions {
    next: Instant,
    unanswered: u32,
}

/// What is to be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Nothing,
    Ask,
    /// It hangs.
    Replace,
}

impl Questions {
    pub(super) fn from(now: Instant) -> Self {
        Self { next: now + QUESTION_EVERY, unanswered: 0 }
    }

    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Counts questions and not the time: where this process itself was held up, or the whole machine,
    /// nobody was asked and nobody is late.
    fn due(&mut self, now: Instant) -> Due {
        if now < self.next {
            return Due::Nothing;
        }
        self.next = now + QUESTION_EVERY;
        if self.unanswered >= QUESTIONS_UNANSWERED {
            return Due::Replace;
        }
        self.unanswered += 1;
        Due::Ask
    }

    /// An answer to any of them is one: under load it may come late.
    fn answered(&mut self) {
        self.unanswered = 0;
    }
}

impl Supervisor {
    /// Asks those that serve. One that has not answered for long is replaced at once, and drains: one of
    /// its threads may hang, and the others serve.
    pub(super) fn ask_for_life(&mut self, now: Instant) {
        let drain = self.config.drain;
        for process in self.processes.iter_mut().filter(|process| process.phase == Phase::Serving) {
            match process.questions.due(now) {
                Due::Nothing => {}
                // The service manager's have numbers of their own, which nobody compares.
                Due::Ask => {
                    process.send(ToWorker::Ping { id: 0 });
                }
                Due::Replace => {
                    let seconds = QUESTION_EVERY.as_secs() * u64::from(QUESTIONS_UNANSWERED);
                    let pid = process.pid();
                    tracing::error!("worker process {pid} has not answered for {seconds} s: it is replaced");
                    process.drain(drain, true, now);
                    self.start_again = Some(now);
                }
            }
        }
    }

    pub(super) fn answered(&mut self, number: u64) {
        if let Some(process) = self.process(number) {
            process.questions.answered();
        }
        self.service_manager.answered();
    }

    /// Tells the service manager that we are alive, as long as the worker process answers.
    pub(super) fn show_life(&mut self, now: Instant) {
        if !self.service_manager.is_due(now) {
            return;
        }
        let id = self.service_manager.show_life(now);
        match self.current().filter(|process| process.phase == Phase::Serving) {
            Some(process) => {
                process.send(ToWorker::Ping { id });
            }
            // Nobody who could hang.
            None => self.service_manager.answered(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_late_lives_and_who_never_does_is_replaced() {
        let mut now = Instant::now();
        let mut questions = Questions::from(now);
        assert_eq!(questions.due(now), Due::Nothing);
        let mut later = |questions: &mut Questions, by: u32| {
            now += QUESTION_EVERY * by;
            questions.due(now)
        };
        // Late by all but one, again and again.
        for _ in 0..3 {
            for _ in 0..QUESTIONS_UNANSWERED {
                assert_eq!(later(&mut questions, 1), Due::Ask);
            }
            questions.answered();
        }
        // The supervisor itself stood still for a long time: one question is one question.
        assert_eq!(later(&mut questions, 1000), Due::Ask);
        for _ in 1..QUESTIONS_UNANSWERED {
            assert_eq!(later(&mut questions, 1), Due::Ask);
        }
        assert_eq!(later(&mut questions, 1), Due::Replace);
        assert_eq!(later(&mut questions, 0), Due::Nothing, "once for each interval");
    }
}
