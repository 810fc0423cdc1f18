//! The command line.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, Parser, Subcommand};
use clap_complete::Shell;

/// The floodgate in front of your application servers.
///
/// One binary, one YAML file. Try `sumun demo`; then write a `sumun.yaml`, `sumun check` it, and
/// `sumun run`.
#[derive(Debug, Parser)]
#[command(
    name = "sumun",
    version,
    propagate_version = true,
    after_help = "Exit status: 0 yes or done, 1 a finding or a failure, 2 wrong usage or config.\n\
                  NO_COLOR turns colours off; SUMUN_LOG=debug makes the log say more."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the whole thing working: gateway, two application servers, admin page
    ///
    /// Nothing else is needed and nothing is left behind. The TCP ports are 8080 and 9900, or the
    /// next free ones. Ctrl-C ends it.
    Demo {
        /// The gateway of the demonstration; started by it
        #[arg(long, value_name = "FILE", hide = true)]
        gateway: Option<PathBuf>,
    },
    /// Run in the foreground
    ///
    /// SIGHUP reloads the file, SIGUSR1 opens the logs again, SIGUSR2 goes on in a new version of the
    /// program, SIGTERM or Ctrl-C finishes what was begun and ends, a second Ctrl-C ends at once.
    Run(File),
    /// Validate the file; every error with its place
    Check {
        #[command(flatten)]
        file: File,
        /// Print what the sandbox would allow to the worker process, too
        #[arg(long)]
        sandbox: bool,
        /// Print the findings as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of the file, for editors
    Schema,
    /// Make the running instance read its file again
    ///
    /// The new file is checked first: a bad one changes nothing. Connections live on.
    Reload(Instance),
    /// Make the running instance go on in the program that lies in its place now
    ///
    /// Put the new program where the running one was started from first. It starts beside the running
    /// one with the config that runs and takes the listening sockets over; the old one finishes what
    /// it began. Where it does not start, nothing changes. The process id stays the same.
    Upgrade(Instance),
    /// Finish what was begun, then end the running instance
    Stop(Instance),
    /// What is happening now
    Status {
        #[command(flatten)]
        instance: Instance,
        /// Print the answer of the API as it is
        #[arg(long)]
        json: bool,
    },
    /// Pools and their servers
    Pool {
        /// Only this pool
        name: Option<String>,
        #[command(flatten)]
        instance: Instance,
        /// Print the answer of the API as it is
        #[arg(long)]
        json: bool,
    },
    /// Who asks for what, most of all, in the last minutes
    ///
    /// Attack or crowd: a few clients with most of the requests, one path, one agent, many errors; or
    /// very many clients, none of which stands out.
    Traffic {
        #[command(flatten)]
        instance: Instance,
        /// Print the answer of the API as it is
        #[arg(long)]
        json: bool,
    },
    /// Clients that are blocked by a rule of `blocks`
    Blocks {
        /// End the block of this client instead, as it is listed
        #[arg(long, value_name = "ADDRESS")]
        lift: Option<String>,
        #[command(flatten)]
        instance: Instance,
        /// Print the answer of the API as it is
        #[arg(long, conflicts_with = "lift")]
        json: bool,
    },
    /// How the cache stands; ask it for a URL, or have it forget
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Cache {
        #[command(flatten)]
        instance: Instance,
        /// Print the answer of the API as it is
        #[arg(long)]
        json: bool,
        #[command(subcommand)]
        action: Option<CacheAction>,
    },
    /// Disks of the cache, and the volumes on them
    #[command(subcommand)]
    Volume(VolumeAction),
    /// Act on one server of a pool, until the next start
    #[command(subcommand)]
    Server(ServerAction),
    /// Print shell completions
    Completions {
        /// For this shell
        shell: Shell,
    },
    /// Print the man page
    Man,
    /// The worker process; started by `run`
    #[command(hide = true)]
    Worker,
    /// Try something in the sandbox of a worker process
    #[command(hide = true)]
    SandboxProbe {
        #[command(flatten)]
        file: File,
        act: String,
        object: Option<String>,
    },
    /// Says whether this program could go on from where the running one is; asked by `upgrade`
    #[command(hide = true)]
    Takeover,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServerAction {
    /// List the servers of all pools, or of one
    List {
        pool: Option<String>,
        #[command(flatten)]
        instance: Instance,
        /// Print the answer of the API as it is
        #[arg(long)]
        json: bool,
    },
    /// Give it no new requests; sticky sessions and running requests go on
    Drain(ServerOfPool),
    /// Use it again
    Enable(ServerOfPool),
    /// Give it nothing at all
    Disable(ServerOfPool),
    /// Change its share of the requests
    Weight {
        #[command(flatten)]
        target: ServerOfPool,
        /// 1 to 1000
        #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
        weight: u32,
    },
    /// Add a server
    Add {
        #[command(flatten)]
        target: ServerOfPool,
        /// 1 to 1000
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
        weight: u32,
        /// What it is called in connection ids of QUIC, in hexadecimal
        #[arg(long)]
        quic_id: Option<String>,
    },
    /// Take a server out of its pool
    Remove(ServerOfPool),
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheAction {
    /// What is stored for a URL, and if not, why
    Get {
        /// As clients ask for it, such as https://www.example.com/a?b=c
        url: String,
        /// A header field of the request, such as "Accept-Encoding: gzip", where answers differ by it
        #[arg(long, value_name = "NAME: VALUE")]
        header: Vec<String>,
        #[command(flatten)]
        instance: Instance,
        /// Print the answer of the API as it is
        #[arg(long)]
        json: bool,
    },
    /// Forget what is stored: for a URL, for all that begin so, for all with a tag, or all
    #[command(group(ArgGroup::new("scope").required(true).args(["url", "prefix", "tag", "all"])))]
    Purge {
        url: Option<String>,
        /// All URLs that begin so, such as https://www.example.com/news/
        #[arg(long, value_name = "URL")]
        prefix: Option<String>,
        /// All answers that servers gave this tag
        #[arg(long)]
        tag: Option<String>,
        #[arg(long)]
        all: bool,
        /// Keep it as stale: it is asked whether it is still right, and given out if the servers fail
        #[arg(long)]
        soft: bool,
        #[command(flatten)]
        instance: Instance,
    },
    /// Ask for many URLs, so that their answers are stored before the crowd comes
    ///
    /// What is asked is the gateway that the URLs lead to, as clients would; no running instance and no
    /// config are needed. Standard error shows how far it is, and at the end standard output what was
    /// stored, what was there already, what was not stored and why, and what failed. Exit status: 0 all
    /// were answered below 400, 1 some were not, 2 nothing was asked for.
    Warm(Warm),
}

#[derive(Debug, Args)]
pub(crate) struct Warm {
    /// A list of URLs, one a line, or a sitemap or an index of sitemaps, also with gzip; - is standard input
    #[arg(value_name = "FILE|URL|-")]
    pub(crate) from: String,
    /// Connect there, such as 127.0.0.1:8080, and not to what the hosts of the URLs resolve to
    ///
    /// Host and the name that TLS asks for stay those of the URLs.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) to: Option<String>,
    /// Requests at the same time, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) connections: u16,
    /// A header field of each request, such as "Accept-Encoding: gzip", where answers differ by it
    #[arg(long, value_name = "NAME: VALUE")]
    pub(crate) header: Vec<String>,
    /// Requests a second, at most: what is not stored yet goes on to the servers
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) rate: u32,
    /// Take any certificate, such as one of your own
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Print the summary as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeAction {
    /// List physical volumes and volumes
    List {
        #[command(flatten)]
        instance: Instance,
        /// Print the answer of the API as it is
        #[arg(long)]
        json: bool,
    },
    /// Make a volume larger: in the file, which is then reloaded
    Grow {
        volume: String,
        /// All of it, such as 20GiB
        size: String,
        #[command(flatten)]
        instance: Instance,
    },
    /// Make a volume smaller: in the file, which is then reloaded
    ///
    /// What was stored in it first is forgotten first.
    Shrink {
        volume: String,
        /// All of it, such as 10GiB
        size: String,
        #[command(flatten)]
        instance: Instance,
    },
    /// Add a physical volume: to the file, which is then reloaded
    Add {
        /// A file to be made, or a block device
        path: PathBuf,
        /// Of the file, such as 10GiB; a block device is taken whole
        size: Option<String>,
        #[command(flatten)]
        instance: Instance,
    },
    /// Take a physical volume out of the file, which is then reloaded
    Remove {
        /// As `sumun volume list` shows it
        path: PathBuf,
        #[command(flatten)]
        instance: Instance,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ServerOfPool {
    /// The pool's name
    pub(crate) pool: String,
    /// The server's name or address, as the file and `sumun pool` show it
    pub(crate) server: String,
    #[command(flatten)]
    pub(crate) instance: Instance,
}

#[derive(Debug, Args)]
pub(crate) struct File {
    /// The file [default: ./sumun.yaml, else /etc/sumun/sumun.yaml]
    #[arg(short, long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl File {
    pub(crate) fn path(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(default_path)
    }
}

/// Which running instance is meant.
#[derive(Debug, Args)]
pub(crate) struct Instance {
    #[command(flatten)]
    pub(crate) file: File,
    /// The control socket of the instance, where the file cannot tell
    #[arg(long, value_name = "SOCKET")]
    pub(crate) control: Option<PathBuf>,
}

fn default_path() -> PathBuf {
    let here = Path::new("sumun.yaml");
    let system = Path::new("/etc/sumun/sumun.yaml");
    // With neither, the error names the file that a beginner would write.
    if !here.exists() && system.exists() { system.to_owned() } else { here.to_owned() }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn options_stand_where_people_put_them() {
        for line in [
            "sumun run -c a.yaml",
            "sumun check --config a.yaml --json",
            "sumun check --sandbox -c a.yaml",
            "sumun upgrade -c a.yaml",
            "sumun pool app -c a.yaml --json",
            "sumun server weight app 127.0.0.1:9001 3 -c a.yaml",
            "sumun server add app 127.0.0.1:9003 --weight 2",
            "sumun server list --json",
            "sumun traffic --json -c a.yaml",
            "sumun blocks --lift 2001:db8::/64",
            "sumun cache warm - --to 127.0.0.1:8080 --connections 64 --rate 500 --header Accept-Encoding:gzip",
            "sumun cache warm https://www.example.com/sitemap.xml --insecure --json",
            "sumun volume list --json -c a.yaml",
            "sumun volume grow pages 20GiB -c a.yaml",
            "sumun volume add /dev/sdb",
            "sumun volume add cache/b 10GiB --control a.sock",
            "sumun completions bash",
        ] {
            Arguments::try_parse_from(line.split(' ')).unwrap();
        }
        for line in [
            "sumun",
            "sumun start",
            "sumun server weight app a 0",
            "sumun pool a b",
            "sumun cache warm",
            "sumun cache warm a --rate 0",
        ] {
            let error = Arguments::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
