//! The command line, in Go's style: single dashes, a command at the end.

use std::path::PathBuf;

/// What containerd passes; without a command the shim serves.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Args {
    pub(super) namespace: String,
    pub(super) address: String,
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    pub(super) info: bool,
    pub(super) command: Option<String>,
}

impl Args {
    pub(super) fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut args = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let Some(flag) = argument.strip_prefix('-') else {
                args.command = Some(argument);
                continue;
            };
            let flag = flag.trim_start_matches('-');
            match flag {
                "info" => args.info = true,
                "debug" | "v" => {}
                _ => {
                    let value = arguments.next().ok_or_else(|| format!("-{flag} needs a value"))?;
                    args.take(flag, value)?;
                }
            }
        }
        Ok(args)
    }

    fn take(&mut self, flag: &str, value: String) -> Result<(), String> {
        match flag {
            "namespace" => self.namespace = value,
            "address" => self.address = value,
            "id" => self.id = value,
            "bundle" => self.bundle = value.into(),
            "publish-binary" | "socket" => {}
            _ => return Err(format!("unknown flag -{flag}")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Args, String> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn containerds_command_lines_are_understood() {
        let args = parsed("-namespace k8s.io -address /c.sock -publish-binary /bin/c -id abc -debug start").unwrap();
        assert_eq!((args.namespace.as_str(), args.address.as_str(), args.id.as_str()), ("k8s.io", "/c.sock", "abc"));
        assert_eq!(args.command.as_deref(), Some("start"));
        assert_eq!(parsed("-id abc -bundle /b delete").unwrap().bundle, PathBuf::from("/b"));
        assert!(parsed("-info").unwrap().info);
    }

    #[test]
    fn an_unknown_flag_and_a_missing_value_are_named() {
        assert_eq!(parsed("-x y"), Err("unknown flag -x".to_owned()));
        assert_eq!(parsed("-id"), Err("-id needs a value".to_owned()));
    }
}
