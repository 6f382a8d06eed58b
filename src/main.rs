//! The `sorank` command; everything is in the library.

fn main() -> std::process::ExitCode {
    sorank::cli::main()
}
