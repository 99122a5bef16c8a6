//! `events/<category>/<name>/format` of tracefs → offsets of fields. Pure.

/// Fields of one tracepoint's record, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Format {
    fields: Vec<Field>,
}

/// Where a field is and how large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub offset: u32,
    pub size: u32,
    /// A string whose place in the record is in the low half of this field.
    pub located: bool,
}

/// Lines of a format file beyond this are not read; the longest of a kernel has some forty.
const MAX_LINES: usize = 256;

/// Lines such as `\tfield:pid_t pid;\toffset:12;\tsize:4;\tsigned:1;`; everything else is skipped.
pub fn parse_format(text: &str) -> Format {
    Format { fields: text.lines().take(MAX_LINES).filter_map(parse_field).collect() }
}

fn parse_field(line: &str) -> Option<Field> {
    let mut parts = line.trim().split(';').map(str::trim);
    let declaration = parts.next()?.strip_prefix("field:")?;
    let offset = parts.next()?.strip_prefix("offset:")?.parse().ok()?;
    let size = parts.next()?.strip_prefix("size:")?.parse().ok()?;
    let last = declaration.split([' ', '*']).rfind(|word| !word.is_empty())?;
    let name = last.split('[').next()?;
    let located = declaration.starts_with("__data_loc ");
    Some(Field { name: name.to_owned(), offset, size, located })
}

impl Format {
    /// Offset of a number of this size.
    pub fn number(&self, name: &str, size: u32) -> Option<u32> {
        self.find(name).filter(|field| !field.located && field.size == size).map(|field| field.offset)
    }

    /// Offset of an array in the record itself of at least this many bytes.
    pub fn bytes(&self, name: &str, at_least: u32) -> Option<u32> {
        self.find(name).filter(|field| !field.located && field.size >= at_least).map(|field| field.offset)
    }

    /// Offset of the word that says where a string is.
    pub fn located(&self, name: &str) -> Option<u32> {
        self.find(name).filter(|field| field.located && field.size == 4).map(|field| field.offset)
    }

    fn find(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXIT: &str = "name: sched_process_exit\nID: 300\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
        \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n\
        \tfield:char comm[16];\toffset:8;\tsize:16;\tsigned:0;\n\
        \tfield:pid_t pid;\toffset:24;\tsize:4;\tsigned:1;\n\
        \tfield:int prio;\toffset:28;\tsize:4;\tsigned:1;\n\
        \tfield:bool group_dead;\toffset:32;\tsize:1;\tsigned:0;\n\n\
        print fmt: \"comm=%s; pid=%d\", REC->comm, REC->pid\n";

    #[test]
    fn numbers_are_found_by_name_and_size() {
        let format = parse_format(EXIT);
        assert_eq!(format.number("group_dead", 1), Some(32));
        assert_eq!(format.number("pid", 4), Some(24));
        assert_eq!(format.number("comm", 16), Some(8));
        assert_eq!((format.bytes("comm", 2), format.bytes("comm", 17)), (Some(8), None));
    }

    #[test]
    fn another_size_or_name_is_nothing() {
        let format = parse_format(EXIT);
        assert_eq!(format.number("pid", 8), None);
        assert_eq!(format.number("parent", 4), None);
        assert_eq!(format.located("comm"), None);
    }

    #[test]
    fn strings_elsewhere_in_the_record_are_told_apart() {
        let format = parse_format("\tfield:__data_loc char[] filename;\toffset:8;\tsize:4;\tsigned:0;\n");
        assert_eq!(format.located("filename"), Some(8));
        assert_eq!(format.number("filename", 4), None);
    }

    #[test]
    fn pointers_keep_their_name() {
        let format = parse_format("\tfield:const char * pathname;\toffset:16;\tsize:8;\tsigned:0;\n");
        assert_eq!(format.number("pathname", 8), Some(16));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "(field:|offset:|size:|[a-z ;:*\\[\\]\t\n0-9]){0,40}") {
            let format = parse_format(&text);
            let _ = format.number("a", 4);
            let _ = format.located("a");
        }
    }
}
