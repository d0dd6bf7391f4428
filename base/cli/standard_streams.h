// Standard input, output and error of a process, made safe to use: those that are closed when it starts are /dev/null
// before anything else opens a file, in every program that links this.
// Thread-safety: from main, before other threads.
#ifndef KVLINK_BASE_CLI_STANDARD_STREAMS_H_
#define KVLINK_BASE_CLI_STANDARD_STREAMS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace kvlink::cli {

// Writes out what standard output still holds. An error if that, or any earlier write to it, failed: ABORTED, with the
// reason where the system still knows it. CANCELLED: whoever read it has gone away (kvlink ... | head).
absl::Status FinishOutput();

// Whether a write to standard output has failed: there is no sense in computing more for it.
bool OutputFailed();

// `text` with control characters, escapes of a terminal and marks that turn the direction of text made visible: what
// may be printed in one line of a terminal, whatever it is.
std::string Printable(absl::string_view text);

// "where: message" as one line of what Printable returns. What the message repeats of itself ("a.gz: a.gz: ...") or of
// `where` stands once.
std::string OneLine(absl::string_view where, absl::string_view message);

}  // namespace kvlink::cli

#endif  // KVLINK_BASE_CLI_STANDARD_STREAMS_H_
