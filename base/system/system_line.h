// Files in which the system tells about itself (/proc, /sys). Thread-safety: a pure function over the file system.
#ifndef KVLINK_BASE_SYSTEM_SYSTEM_LINE_H_
#define KVLINK_BASE_SYSTEM_SYSTEM_LINE_H_

#include <fstream>
#include <string>

namespace kvlink {

// The first line that begins with `prefix`, without it and without blanks around what is left; "" if there is none, or
// if the file cannot be read.
inline std::string SystemLine(const std::string& path, const std::string& prefix = "") {
  constexpr char kBlank[] = " \t";
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, prefix.size(), prefix) != 0) continue;
    const size_t begin = line.find_first_not_of(kBlank, prefix.size());
    return begin == std::string::npos ? "" : line.substr(begin, line.find_last_not_of(kBlank) + 1 - begin);
  }
  return "";
}

}  // namespace kvlink

#endif  // KVLINK_BASE_SYSTEM_SYSTEM_LINE_H_
