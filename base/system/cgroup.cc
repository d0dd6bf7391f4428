// A group's own limit may be above that of a group above it, so all are read. In a container, the path of the group may
// be one of the host that is not mounted; the mount is then the container's own group, which is read in any case.
#include "base/system/cgroup.h"

#include <fstream>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/system/system_line.h"

namespace kvlink {
namespace {

template <typename T>
void Lower(T value, T* limit) {
  if (value > 0 && (*limit == 0 || value < *limit)) *limit = value;
}

void LowerMemory(const std::string& text, CgroupLimits* limits) {
  constexpr int64_t kUnlimited = int64_t{1} << 60;  // version 1 has a number near 2^63 for it, version 2 "max"
  int64_t bytes = 0;
  if (absl::SimpleAtoi(text, &bytes) && bytes < kUnlimited) Lower(bytes, &limits->memory);
}

void LowerProcessors(absl::string_view quota, absl::string_view period, CgroupLimits* limits) {
  double microseconds = 0, of = 0;
  if (!absl::SimpleAtod(quota, &microseconds) || !absl::SimpleAtod(period, &of) || of <= 0) return;
  Lower(microseconds / of, &limits->processors);
}

void ReadVersion2(const std::string& folder, CgroupLimits* limits) {
  const std::vector<std::string> time = absl::StrSplit(SystemLine(folder + "/cpu.max"), ' ');
  if (time.size() == 2) LowerProcessors(time[0], time[1], limits);
  LowerMemory(SystemLine(folder + "/memory.max"), limits);
}

void ReadProcessors1(const std::string& folder, CgroupLimits* limits) {
  LowerProcessors(SystemLine(folder + "/cpu.cfs_quota_us"), SystemLine(folder + "/cpu.cfs_period_us"), limits);
}

void ReadMemory1(const std::string& folder, CgroupLimits* limits) {
  LowerMemory(SystemLine(folder + "/memory.limit_in_bytes"), limits);
}

// Reads the group and those above it, up to the mount.
void ReadUpwards(const std::string& mount, absl::string_view group, void (*read)(const std::string&, CgroupLimits*),
                 CgroupLimits* limits) {
  for (;;) {
    read(absl::StrCat(mount, group), limits);
    if (group.empty()) return;
    group = group.substr(0, group.find_last_of('/') == absl::string_view::npos ? 0 : group.find_last_of('/'));
  }
}

}  // namespace

CgroupLimits ReadCgroupLimits(const std::string& root) {
  CgroupLimits limits;
  const std::string mount = root + "/sys/fs/cgroup";
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));  // number:controllers:group
    if (fields.size() != 3) continue;
    const std::vector<std::string> controllers = absl::StrSplit(fields[1], ',');
    if (fields[1].empty()) ReadUpwards(mount, fields[2], ReadVersion2, &limits);
    if (absl::c_linear_search(controllers, "cpu")) ReadUpwards(mount + "/cpu", fields[2], ReadProcessors1, &limits);
    if (absl::c_linear_search(controllers, "memory")) ReadUpwards(mount + "/memory", fields[2], ReadMemory1, &limits);
  }
  return limits;
}

}  // namespace kvlink
