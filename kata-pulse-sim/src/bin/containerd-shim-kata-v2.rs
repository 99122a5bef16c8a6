//! The simulated shim as containerd starts it; under the name of a VMM it plays that VMM.

use std::process::ExitCode;

fn main() -> ExitCode {
    kata_pulse_sim::taskshim::main()
}
