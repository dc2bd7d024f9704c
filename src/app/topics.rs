//! `portcullis topics plan | apply | check | acls`: the topics of a cluster against `topology/topics.yaml`.

use std::io::Write;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::{Connection, Ending, Output};
use crate::log::admin::{ClusterAdmin, Difference, Done, Fix, Role, acls, commands};

const EXAMPLES: &str = "Examples:
  portcullis topics plan                        what `apply` would do
  portcullis topics apply --replication-factor 3
  portcullis topics check --output json         exit code 0 when everything is as it should be, 3 when not
  portcullis topics acls --role run --principal User:portcullis-run";

/// Compare the topics of a cluster with topology/topics.yaml, make them, and print the ACLs they need.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct TopicsArgs {
    #[command(subcommand)]
    pub command: TopicsCommand,
}

#[derive(Debug, Subcommand)]
pub enum TopicsCommand {
    /// Show what `apply` would do, and what a person has to decide. Changes nothing.
    Plan(PlanArgs),
    /// Make the topics that are missing, and change those of Portcullis that differ.
    Apply(ApplyArgs),
    /// As `plan`; the exit code says whether there is a difference.
    Check(PlanArgs),
    /// Print the least that each kind of client must be allowed, as commands of Kafka's own tool. Asks no cluster.
    Acls(AclsArgs),
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// Copies of each partition of new topics [default: the broker's own default]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
    pub replication_factor: Option<i16>,
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct AclsArgs {
    /// One kind of client [default: all of them]
    #[arg(long, value_enum)]
    pub role: Option<RoleArg>,
    /// Who is to be allowed [default: User:portcullis-<role>]
    #[arg(long, value_name = "PRINCIPAL")]
    pub principal: Option<String>,
    /// The consumer group of a subscriber [default: every group that starts with `subscriber-`]
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleArg {
    Run,
    Sink,
    Edge,
    Notify,
    Publisher,
    Subscriber,
    Operator,
    Admin,
}

impl RoleArg {
    const fn role(self) -> Role {
        match self {
            RoleArg::Run => Role::Run,
            RoleArg::Sink => Role::Sink,
            RoleArg::Edge => Role::Edge,
            RoleArg::Notify => Role::Notify,
            RoleArg::Publisher => Role::Publisher,
            RoleArg::Subscriber => Role::Subscriber,
            RoleArg::Operator => Role::Operator,
            RoleArg::Admin => Role::Admin,
        }
    }
}

/// Runs the command; its answer goes to `out`.
///
/// # Errors
/// The cluster does not answer or refuses, with what to do.
pub fn run(args: &TopicsArgs, connection: &Connection, out: &mut dyn Write) -> anyhow::Result<Ending> {
    match &args.command {
        TopicsCommand::Plan(args) => {
            plan(args, connection, out)?;
            Ok(Ending::Well)
        }
        TopicsCommand::Check(args) => {
            let is_right = plan(args, connection, out)?;
            Ok(if is_right { Ending::Well } else { Ending::Different })
        }
        TopicsCommand::Apply(args) => apply(args, connection, out),
        TopicsCommand::Acls(args) => {
            print_acls(args, connection, out)?;
            Ok(Ending::Well)
        }
    }
}

/// What `plan` and `check` print as JSON.
#[derive(Debug, Serialize)]
struct Plan<'a> {
    is_right: bool,
    differences: &'a [Difference],
}

/// What `apply` prints as JSON.
#[derive(Debug, Serialize)]
struct Applied<'a> {
    is_right: bool,
    done: &'a [Done],
    /// What is left.
    differences: &'a [Difference],
}

/// Whether everything is as it should be.
fn plan(args: &PlanArgs, connection: &Connection, out: &mut dyn Write) -> anyhow::Result<bool> {
    let differences = ClusterAdmin::new(&connection.client)?.plan(&connection.topics)?;
    let is_right = is_right(&differences);
    args.output.write(out, &Plan { is_right, differences: &differences }, &plan_text(&differences))?;
    Ok(is_right)
}

fn apply(args: &ApplyArgs, connection: &Connection, out: &mut dyn Write) -> anyhow::Result<Ending> {
    let admin = ClusterAdmin::new(&connection.client)?;
    let (done, left) = admin.apply(&connection.topics, args.replication_factor.map(i32::from))?;
    let is_right = is_right(&left);
    args.output.write(out, &Applied { is_right, done: &done, differences: &left }, &applied_text(&done, &left))?;
    Ok(if is_right { Ending::Well } else { Ending::Different })
}

fn print_acls(args: &AclsArgs, connection: &Connection, out: &mut dyn Write) -> anyhow::Result<()> {
    let roles = args.role.map_or_else(|| Role::ALL.to_vec(), |role| vec![role.role()]);
    let mut all = Vec::new();
    let mut lines = Vec::new();
    for role in roles {
        let acls = acls(&connection.topics, role, args.group.as_deref());
        let principal = args.principal.clone().unwrap_or_else(|| format!("User:portcullis-{role}"));
        lines.extend(commands(&acls, &principal, &connection.client.bootstrap));
        all.extend(acls);
    }
    Ok(args.output.write(out, &all, &lines.join("\n"))?)
}

/// Nothing is left that anybody would have to do.
fn is_right(differences: &[Difference]) -> bool {
    differences.iter().all(|difference| match difference.fix {
        Fix::Nothing(_) => true,
        Fix::Apply | Fix::ByHand(_) => false,
    })
}

fn plan_text(differences: &[Difference]) -> String {
    let mut lines: Vec<String> = differences.iter().map(ToString::to_string).collect();
    let count = |wanted: fn(&Fix) -> bool| differences.iter().filter(|d| wanted(&d.fix)).count();
    let to_apply = count(|fix| matches!(fix, Fix::Apply));
    let by_hand = count(|fix| matches!(fix, Fix::ByHand(_)));
    lines.push(match (to_apply, by_hand) {
        (0, 0) => "The topics are as they should be.".to_owned(),
        (n, 0) => format!("{n} to settle with `portcullis topics apply`."),
        (0, n) => format!("{n} to settle by hand."),
        (n, m) => format!("{n} to settle with `portcullis topics apply`, {m} by hand."),
    });
    lines.join("\n")
}

fn applied_text(done: &[Done], left: &[Difference]) -> String {
    let mut lines: Vec<String> = done
        .iter()
        .map(|done| match &done.error {
            None => format!("done: {}", done.difference),
            Some(error) => format!("refused: {}: {error}", done.difference),
        })
        .collect();
    lines.push(plan_text(left));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: TopicsArgs,
    }

    #[test]
    fn the_command_line_is_sound() {
        Line::command().debug_assert();
        let parse = |line: &[&str]| Line::try_parse_from(line).map(|line| line.args.command);
        assert!(matches!(parse(&["topics", "check"]), Ok(TopicsCommand::Check(_))));
        let apply = parse(&["topics", "apply", "--replication-factor", "3"]);
        assert!(matches!(apply, Ok(TopicsCommand::Apply(ApplyArgs { replication_factor: Some(3), .. }))));
        assert!(parse(&["topics", "apply", "--replication-factor", "0"]).is_err());
        let acls = parse(&["topics", "acls", "--role", "run", "--principal", "User:x"]);
        assert!(matches!(
            acls,
            Ok(TopicsCommand::Acls(AclsArgs { role: Some(RoleArg::Run), principal: Some(_), group: None, .. }))
        ));
    }
    #[test]
    fn every_role_can_be_asked_for_by_its_name() {
        let asked: Vec<Role> = RoleArg::value_variants().iter().map(|arg| arg.role()).collect();
        assert_eq!(asked, Role::ALL);
        for arg in RoleArg::value_variants() {
            assert_eq!(arg.to_possible_value().unwrap().get_name(), arg.role().as_str());
        }
    }
}
