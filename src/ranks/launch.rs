//! Whether a launcher such as `mpirun` or `srun` has started this process, one of several.

use crate::error::Error;

/// Variables that launchers set in every process that they start, with the number of processes.
const SIZES: [&str; 4] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"];

/// Variables of an interface between launcher and MPI: with one of them, `SLURM_NTASKS` is that of this job's step, and
/// not only of the script around it.
const INTERFACES: [&str; 4] = ["PMI_RANK", "PMI_FD", "PMIX_RANK", "PMIX_NAMESPACE"];

/// How this process was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The variable that says so.
    pub variable: &'static str,
    /// How many processes there are.
    pub size: usize,
}

/// The launch of this process; `None` if it was started alone.
pub fn found() -> Option<Launch> {
    find(|name| std::env::var(name).ok())
}

fn find(variable: impl Fn(&str) -> Option<String>) -> Option<Launch> {
    let size = |name: &'static str| Some(Launch { variable: name, size: variable(name)?.trim().parse().ok()? });
    let in_step = INTERFACES.iter().any(|name| variable(name).is_some());
    SIZES.into_iter().chain(in_step.then_some("SLURM_NTASKS")).find_map(size).filter(|launch| launch.size > 0)
}

impl Launch {
    /// The error of a program without MPI that was started several times: the runs would overwrite each other.
    pub fn without_mpi(&self) -> Error {
        let Self { variable, size } = self;
        Error::input(format!(
            "this program was started {size} times ({variable} is {size}), but it was built without MPI, so these would be \
             {size} runs that overwrite each other: build it with `cargo build --release --features mpi`, or start it once"
        ))
    }

    /// The error of a program whose MPI does not know the launcher.
    pub fn of_other_mpi(&self, found: usize) -> Error {
        let Self { variable, size } = self;
        Error::input(format!(
            "this program was started {size} times ({variable} is {size}), but its MPI library finds {found}: start it with \
             the launcher of the MPI that it was built with"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launchers_are_known_by_their_variables() {
        let with = |set: &[(&'static str, &str)]| {
            find(|name| set.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned()))
                .map(|launch| (launch.variable, launch.size))
        };
        assert_eq!(with(&[]), None);
        assert_eq!(with(&[("OMPI_COMM_WORLD_SIZE", "4")]), Some(("OMPI_COMM_WORLD_SIZE", 4)));
        assert_eq!(with(&[("PMI_SIZE", "1")]), Some(("PMI_SIZE", 1)));
        // A batch script has it, too, but runs once.
        assert_eq!(with(&[("SLURM_NTASKS", "8")]), None);
        assert_eq!(with(&[("SLURM_NTASKS", "8"), ("PMIX_RANK", "3")]), Some(("SLURM_NTASKS", 8)));
        assert_eq!(with(&[("PMI_SIZE", "many")]), None);
    }
}
