// Pictures drawn by the program gnuplot (Debian: gnuplot-nox), which reads a script. No shell is involved.
// Thread-safety: all functions.
#ifndef KVLINK_BASE_CLI_GNUPLOT_H_
#define KVLINK_BASE_CLI_GNUPLOT_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace kvlink::cli {

// `text` as a string of a script, in which gnuplot substitutes nothing. Control characters become spaces.
std::string GnuplotString(absl::string_view text);

// FAILED_PRECONDITION: gnuplot is not installed. To be asked before hours of work whose picture is wanted.
absl::Status FindGnuplot();

// Runs a script that draws one picture, without terminal and output, and writes it to a PNG file of `width` x `height`
// pixels. The file is replaced only by a whole picture. FAILED_PRECONDITION: gnuplot is not installed; INVALID_ARGUMENT
// with the last line of its message: it did not take the script; errors of the file system naming `path`.
absl::Status DrawPng(absl::string_view script, int width, int height, const std::string& path);

}  // namespace kvlink::cli

#endif  // KVLINK_BASE_CLI_GNUPLOT_H_
