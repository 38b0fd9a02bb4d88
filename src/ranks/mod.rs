//! Several processes that train one model: who they are, what they exchange, and how they agree.
//!
//! The processes are called ranks, as in MPI. Everything above this module knows only [`Team`], and one process alone is a
//! team of one, for which nothing is sent.

mod agree;
pub mod launch;
#[cfg(feature = "mpi")]
mod mpi;
pub mod rank_log;
mod sum;
#[cfg(feature = "mpi")]
mod watch;

use std::cell::Cell;
use std::fmt::Debug;
use std::ops::Range;
use std::rc::Rc;

use crate::error::{Error, Result};

pub use sum::PartialSums;

/// A place among several: the number of a process, from 0, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// From 0.
    pub rank: usize,
    /// At least 1.
    pub size: usize,
}

impl Default for Seat {
    fn default() -> Self {
        Self { rank: 0, size: 1 }
    }
}

impl Seat {
    /// The share of this place in `count` things in a row: consecutive ones, and at most one more than any other's.
    pub fn range(self, count: usize) -> Range<usize> {
        // The product of two numbers of things or processes that fit in memory.
        let first = |rank: usize| (rank as u128 * count as u128 / self.size as u128) as usize;
        first(self.rank)..first(self.rank + 1)
    }

    /// Checks that there is a micro-batch for each place in what they compute together, an update or a step of so many
    /// samples; `key` sets the micro-batch, and `more` says how to get more samples.
    ///
    /// # Errors
    /// [`Error::Input`] with the numbers, and what to change.
    pub fn check_batches(self, samples: usize, micro_batch: usize, what: &str, key: &str, more: &str) -> Result<()> {
        let (size, batches) = (self.size, samples.div_ceil(micro_batch));
        if batches >= size {
            return Ok(());
        }
        // The largest micro-batch of which there is one for each rank, and equally many for all if possible.
        let divisors = || (1..=samples / size).rev().filter(|part| samples.is_multiple_of(*part));
        let fix = match divisors().find(|it| (samples / it).is_multiple_of(size)).or_else(|| divisors().next()) {
            Some(fitting) => format!("set `{key}` = {fitting}"),
            None => format!("start at most {samples} ranks, or {more}"),
        };
        Err(Error::input(format!(
            "{what} has {samples} samples in {batches} micro-batches of `{key}` = {micro_batch}, too few for {size} ranks, \
             which need at least one each: {fix}"
        )))
    }

    /// All places.
    pub fn all(self) -> impl Iterator<Item = Self> {
        (0..self.size).map(move |rank| Self { rank, ..self })
    }
}

/// What ranks can do together. Every rank calls the same methods in the same order.
pub trait Collective: Debug {
    /// The place of this rank.
    fn seat(&self) -> Seat;

    /// Its place among the ranks on the same machine.
    fn on_machine(&self) -> Seat;

    /// The bytes of every rank, in the order of ranks.
    ///
    /// # Errors
    /// If the connection fails.
    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// Sends `to[r]` to rank r; returns what every rank sent here, in the order of ranks.
    ///
    /// # Errors
    /// If the connection fails.
    fn exchange(&self, to: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>>;

    /// What to tell the user if a rank dies: how to continue.
    fn on_death(&self, remedy: String);

    /// Ends every rank at once, with this exit code.
    fn abort(&self, code: u8) -> !;
}

/// One process.
#[derive(Debug)]
struct Alone;

impl Collective for Alone {
    fn seat(&self) -> Seat {
        Seat::default()
    }

    fn on_machine(&self) -> Seat {
        Seat::default()
    }

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![own.to_vec()])
    }

    fn exchange(&self, to: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        Ok(to)
    }

    fn on_death(&self, _: String) {}

    fn abort(&self, code: u8) -> ! {
        std::process::exit(code.into())
    }
}

/// The ranks that train together.
#[derive(Clone, Debug)]
pub struct Team {
    members: Rc<dyn Collective>,
    /// Whether the processes were started together, even if there is only one.
    is_launched: bool,
    /// Whether all know that one has failed: then nobody waits for another any more.
    has_failed: Rc<Cell<bool>>,
}

/// This process alone.
impl Default for Team {
    fn default() -> Self {
        Self { members: Rc::new(Alone), is_launched: false, has_failed: Rc::default() }
    }
}

impl Team {
    /// The team that a launcher such as `mpirun` has started, or this process alone.
    ///
    /// # Errors
    /// [`Error::Input`] if there are several processes and the program was built without MPI, or with another MPI than
    /// the launcher's.
    pub fn start() -> Result<Self> {
        let Some(launch) = launch::found() else { return Ok(Self::default()) };
        #[cfg(feature = "mpi")]
        {
            let team = Self::of(Rc::new(mpi::Mpi::start(&launch)?));
            if !team.leads() {
                rank_log::withhold();
            }
            Ok(team)
        }
        #[cfg(not(feature = "mpi"))]
        match launch.size {
            1 => Ok(Self::default()),
            _ => Err(launch.without_mpi()),
        }
    }

    /// Ranks that are connected in some way.
    pub fn of(members: Rc<dyn Collective>) -> Self {
        Self { members, is_launched: true, has_failed: Rc::default() }
    }

    /// Whether a launcher has started the processes together, even if there is only one.
    pub fn is_launched(&self) -> bool {
        self.is_launched
    }

    /// The place of this rank.
    pub fn seat(&self) -> Seat {
        self.members.seat()
    }

    /// Its place among the ranks on the same machine.
    pub fn on_machine(&self) -> Seat {
        self.members.on_machine()
    }

    /// Whether this process writes files and talks to the user: exactly one does.
    pub fn leads(&self) -> bool {
        self.seat().rank == 0
    }

    /// Whether there are several ranks.
    pub fn is_many(&self) -> bool {
        self.seat().size > 1
    }

    /// Two texts that differ, if not all ranks have the same: that of rank 0, and the first other.
    ///
    /// # Errors
    /// If the connection fails.
    pub fn differing(&self, own: &str) -> Result<Option<[String; 2]>> {
        let all = self.gather(own.as_bytes())?;
        let other = all.iter().find(|text| **text != all[0]);
        Ok(other.map(|other| [&all[0], other].map(|text| String::from_utf8_lossy(text).into_owned())))
    }

    /// Whether all ranks know that one has failed.
    pub fn has_failed(&self) -> bool {
        self.has_failed.get()
    }

    /// The bytes of every rank, in the order of ranks.
    ///
    /// # Errors
    /// If another rank has failed, or the connection.
    pub fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        match self.is_many() {
            true => Ok(self.meet(&agree::framed(own))?),
            false => Ok(vec![own.to_vec()]),
        }
    }

    /// Sends `to[r]` to rank r; returns what every rank sent here, in the order of ranks.
    ///
    /// # Errors
    /// If another rank has failed, or the connection.
    pub fn exchange(&self, to: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        // A rank that has failed says so, and sends nothing.
        self.gather(&[])?;
        self.members.exchange(to)
    }

    /// The bytes of rank 0; those of the others do not count.
    ///
    /// # Errors
    /// If another rank has failed, or the connection.
    pub fn from_leader(&self, own: &[u8]) -> Result<Vec<u8>> {
        let own = if self.leads() { own } else { &[] };
        Ok(self.gather(own)?.swap_remove(0))
    }

    /// Whether this is true of any rank.
    ///
    /// # Errors
    /// If another rank has failed, or the connection.
    pub fn any(&self, flag: bool) -> Result<bool> {
        Ok(self.gather(&[u8::from(flag)])?.iter().any(|flag| flag == &[1]))
    }

    /// What to tell the user if a rank dies: how to continue.
    pub fn on_death(&self, remedy: String) {
        self.members.on_death(remedy);
    }

    /// Ends every rank at once because of an error that only this one knows of.
    pub fn abort(&self, error: &Error) -> ! {
        self.members.abort(error.exit_code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_consecutive_and_almost_equal() {
        for (count, size) in [(8, 1), (8, 2), (8, 3), (7, 4), (4, 4), (0, 3), (5, 8)] {
            let shares: Vec<Range<usize>> = Seat { rank: 0, size }.all().map(|seat| seat.range(count)).collect();
            let lengths: Vec<usize> = shares.iter().map(Range::len).collect();
            assert_eq!(shares.concat_ranges(), (0..count).collect::<Vec<_>>());
            assert!(lengths.iter().max().unwrap() - lengths.iter().min().unwrap() <= 1, "{lengths:?}");
        }
    }

    trait ConcatRanges {
        fn concat_ranges(&self) -> Vec<usize>;
    }

    impl ConcatRanges for Vec<Range<usize>> {
        fn concat_ranges(&self) -> Vec<usize> {
            self.iter().cloned().flatten().collect()
        }
    }

    #[test]
    fn one_process_is_a_team_of_one() {
        let team = Team::default();
        assert!(team.leads() && !team.is_many() && !team.is_launched());
        assert_eq!(team.gather(b"all").unwrap(), [b"all"]);
        assert_eq!(team.from_leader(b"all").unwrap(), b"all");
        assert!(team.any(true).unwrap() && !team.any(false).unwrap());
        assert_eq!(team.agree(Ok(7)).unwrap(), 7);
    }
}
