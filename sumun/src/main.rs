//! The binary: arguments, signals, wiring.
//!
//! `sumun run` is the supervisor ([`supervisor`]); it starts this same program as its worker
//! process ([`worker`]), which hands over to [`wiring`]. Every other subcommand is a short-lived
//! client of a running instance, or needs none.

mod arguments;
mod cache;
mod checked;
mod client;
mod commands;
mod control;
mod demo;
mod limits;
mod log;
mod sandbox;
mod state;
mod storage;
mod supervisor;
mod table;
mod traffic;
mod wiring;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(file) => supervisor::run(file.path()),
        Command::Worker => worker::run(),
        Command::Takeover => supervisor::rehearse(),
        Command::Demo { gateway: None } => demo::run(),
        Command::Demo { gateway: Some(file) } => demo::run_gateway(&file),
        Command::Check { file, sandbox, json } => commands::check(&file.path(), sandbox, json),
        Command::SandboxProbe { file, act, object } => sandbox::probe(&file.path(), &act, object.as_deref()),
        Command::Schema => commands::schema(),
        Command::Reload(instance) => commands::reload(&instance),
        Command::Upgrade(instance) => commands::upgrade(&instance),
        Command::Stop(instance) => commands::stop(&instance),
        Command::Status { instance, json } => commands::status(&instance, json),
        Command::Pool { name, instance, json } => commands::pool(&instance, name.as_deref(), json),
        Command::Traffic { instance, json } => commands::traffic(&instance, json),
        Command::Blocks { lift, instance, json } => commands::blocks(&instance, lift.as_deref(), json),
        Command::Cache { instance, json, action } => commands::cache(&instance, json, action.as_ref()),
        Command::Volume(action) => commands::volume(&action),
        Command::Server(action) => commands::server(&action),
        Command::Completions { shell } => commands::completions(shell),
        Command::Man => commands::man(),
    }
}
