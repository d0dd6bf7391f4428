// Makes standard input, output and error safe to use: in every program that links this, any of them that is closed at
// startup is opened on /dev/null before anything else opens a file.
// Thread-safety: call from main, before other threads start.
#ifndef KVLINK_BASE_CLI_STANDARD_STREAMS_H_
#define KVLINK_BASE_CLI_STANDARD_STREAMS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace kvlink::cli {

// Flushes standard output. ABORTED if this or any earlier write to it failed, with the reason if the system still knows
// it. CANCELLED: the reader has gone away (kvlink ... | head).
absl::Status FinishOutput();

// Whether a write to standard output has failed, so that computing more output is pointless.
bool OutputFailed();

// Makes control characters, terminal escapes and bidirectional marks in `text` visible, so that any text can be printed
// on one line of a terminal.
std::string Printable(absl::string_view text);

// Formats "where: message" as one Printable line. Drops prefixes that the message repeats, of itself ("a.gz: a.gz:
// ...") or of `where`.
std::string OneLine(absl::string_view where, absl::string_view message);

}  // namespace kvlink::cli

#endif  // KVLINK_BASE_CLI_STANDARD_STREAMS_H_
