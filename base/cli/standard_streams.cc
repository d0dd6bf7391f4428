// Buffered write errors surface late and lose errno, so they are checked once, at the end.
#include "base/cli/standard_streams.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace kvlink::cli {
namespace {

bool ReaderIsGone() {
  pollfd output{STDOUT_FILENO, 0, 0};
  return poll(&output, 1, 0) == 1 && (output.revents & POLLERR) != 0;
}

// Length of the UTF-8 sequence that begins with `first`; 1 if none does.
size_t SequenceLength(unsigned char first) {
  if (first >= 0xf0) return 4;
  if (first >= 0xe0) return 3;
  return first >= 0xc0 ? 2 : 1;
}

// The code point of a complete sequence; 0 if its bytes do not fit together.
uint32_t Decode(absl::string_view sequence) {
  if (sequence.size() == 1) return static_cast<unsigned char>(sequence[0]);
  uint32_t code = static_cast<unsigned char>(sequence[0]) & (0x7f >> sequence.size());
  for (const char c : sequence.substr(1)) {
    if ((c & 0xc0) != 0x80) return 0;
    code = code << 6 | (c & 0x3f);
  }
  return code;
}

bool Invisible(uint32_t code) {
  return code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0x61c ||             // controls; Arabic letter mark
         (code >= 0x200b && code <= 0x200f) || (code >= 0x2028 && code <= 0x202e) ||  // zero width, marks, separators
         (code >= 0x2066 && code <= 0x2069) || code == 0xfeff;                        // isolates; byte order mark
}

// Opens closed descriptors 0 to 2 on /dev/null, so that no file opened later takes their place and receives printed
// output. Runs before library constructors, since gRPC's opens descriptors. A sanitizer's runtime may not be
// initialised yet, so it makes system calls directly.
void OpenClosedStreams() {
  for (int descriptor = STDIN_FILENO; descriptor <= STDERR_FILENO; ++descriptor) {
    if (syscall(SYS_fcntl, descriptor, F_GETFD) >= 0 || errno != EBADF) continue;
    // openat returns the lowest free descriptor, which is this one. Left open on purpose: it is the stream from now on.
    if (syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR) != descriptor) _exit(1);
  }
}

[[gnu::section(".preinit_array"), gnu::used]] void (*const kBeforeLibraries)() = OpenClosedStreams;

}  // namespace

bool OutputFailed() { return std::ferror(stdout) != 0; }

absl::Status FinishOutput() {
  const bool failed = OutputFailed();
  errno = 0;
  if (std::fflush(stdout) == 0 && !failed) return absl::OkStatus();
  const int error = errno;
  if (ReaderIsGone()) return absl::CancelledError("standard output was closed");
  return absl::AbortedError(
      absl::StrCat("standard output could not be written", error != 0 ? absl::StrCat(": ", std::strerror(error)) : ""));
}

std::string Printable(absl::string_view text) {
  std::string printable;
  for (size_t at = 0; at < text.size();) {
    const size_t length = SequenceLength(static_cast<unsigned char>(text[at]));
    const absl::string_view sequence = text.substr(at, length);
    const uint32_t code = sequence.size() == length ? Decode(sequence) : 0;
    if (length == 1 && static_cast<unsigned char>(text[at]) < 0x80 && !Invisible(code)) {
      printable += text[at++];
    } else if (length > 1 && code != 0 && !Invisible(code)) {
      absl::StrAppend(&printable, sequence);
      at += length;
    } else if (length > 1 && code != 0) {
      absl::StrAppendFormat(&printable, "\\u%04x", code);
      at += length;
    } else {
      absl::StrAppendFormat(&printable, "\\x%02x", static_cast<unsigned char>(text[at++]));
    }
  }
  return printable;
}

std::string OneLine(absl::string_view where, absl::string_view message) {
  constexpr absl::string_view kColon = ": ";
  std::string text = absl::StrCat(where, kColon, absl::StrReplaceAll(message, {{"\n", " "}, {"\r", " "}}));
  // Removes each prefix that is followed by itself.
  for (size_t begin = 0; begin < text.size();) {
    const size_t colon = text.find(": ", begin);
    if (colon == std::string::npos) break;
    const size_t length = colon + kColon.size() - begin;
    if (text.compare(begin + length, length, text, begin, length) == 0) {
      text.erase(begin, length);
    } else {
      begin += length;
    }
  }
  return Printable(text);
}

}  // namespace kvlink::cli
