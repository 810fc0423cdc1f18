//! A set of control tasks that follows what should run.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use tokio::task::{AbortHandle, JoinHandle};

/// Running tasks by key, each with what it was started for. All end when this is dropped.
pub(crate) struct Tasks<Key, Job> {
    running: HashMap<Key, (Job, AbortHandle)>,
}

impl<Key: Eq + Hash + Clone, Job: PartialEq> Tasks<Key, Job> {
    pub(crate) fn new() -> Self {
        Self { running: HashMap::new() }
    }

    /// Ends what is not wanted any more or is wanted in another way, starts what is missing; what
    /// is wanted as it is goes on undisturbed. Returns the keys of which no task runs any more.
    pub(crate) fn follow(
        &mut self,
        wanted: HashMap<Key, Job>,
        mut start: impl FnMut(&Key, &Job) -> JoinHandle<()>,
    ) -> Vec<Key> {
        let mut ended = Vec::new();
        self.running.retain(|key, (job, task)| {
            let stays = wanted.get(key) == Some(job) && !task.is_finished();
            if !stays {
                task.abort();
                if !wanted.contains_key(key) {
                    ended.push(key.clone());
                }
            }
            stays
        });
        for (key, job) in wanted {
            if let Entry::Vacant(place) = self.running.entry(key) {
                let task = start(place.key(), &job).abort_handle();
                place.insert((job, task));
            }
        }
        ended
    }
}

impl<Key, Job> Drop for Tasks<Key, Job> {
    fn drop(&mut self) {
        for (_, task) in self.running.values() {
            task.abort();
        }
    }
}
