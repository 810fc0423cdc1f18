//! Rise and fall: how many answers in a row change what is thought of a server.

/// What active checks say about a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Health {
    /// Not checked yet, or not checked at all: taken for up until proven down.
    Unknown,
    Up,
    Down,
}

/// Counts answers of checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checks {
    health: Health,
    /// Answers in a row that speak against `health`.
    against: u32,
}

impl Default for Checks {
    fn default() -> Self {
        Self { health: Health::Unknown, against: 0 }
    }
}

impl Checks {
    /// Continues where another run of checks stopped.
    pub const fn starting_at(health: Health) -> Self {
        Self { health, against: 0 }
    }

    pub const fn health(&self) -> Health {
        self.health
    }

    /// It is down, and its last answer was good: a few more of them, and it is up.
    pub const fn is_rising(&self) -> bool {
        matches!(self.health, Health::Down) && self.against > 0
    }

    /// Notes one answer; returns the new health where it changes. `rise` and `fall` of zero count
    /// as one. The first good answer of an unknown server is enough.
    pub fn note(&mut self, good: bool, rise: u32, fall: u32) -> Option<Health> {
        let (new, needed) = match (self.health, good) {
            (Health::Unknown, true) => (Health::Up, 1),
            (Health::Down, true) => (Health::Up, rise.max(1)),
            (Health::Unknown | Health::Up, false) => (Health::Down, fall.max(1)),
            (Health::Up, true) | (Health::Down, false) => {
                self.against = 0;
                return None;
            }
        };
        self.against += 1;
        if self.against < needed {
            return None;
        }
        *self = Self::starting_at(new);
        Some(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(answers: &str) -> Vec<Health> {
        let mut checks = Checks::default();
        answers.chars().filter_map(|answer| checks.note(answer == '+', 2, 3)).collect()
    }

    #[test]
    fn falls_after_three_and_rises_after_two() {
        assert_eq!(run("+"), [Health::Up]);
        assert_eq!(run("--"), []);
        assert_eq!(run("---"), [Health::Down]);
        assert_eq!(run("+--+--+"), [Health::Up]);
        assert_eq!(run("+---+-+-++"), [Health::Up, Health::Down, Health::Up]);
    }

    #[test]
    fn rises_from_its_first_good_answer() {
        let mut checks = Checks::starting_at(Health::Down);
        let rising: Vec<bool> = "-+-+++"
            .chars()
            .map(|answer| {
                checks.note(answer == '+', 3, 3);
                checks.is_rising()
            })
            .collect();
        assert_eq!(rising, [false, true, false, true, true, false]);
    }
}
