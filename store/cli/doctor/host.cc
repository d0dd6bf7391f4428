// Where the parts of KVLink know what they can use, they are asked: what the system allows in name it may refuse in
// fact.
#include "store/cli/doctor/host.h"

#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/cli/args.h"
#include "base/system/cgroup.h"
#include "base/system/system_line.h"
#include "base/thread.h"
#include "store/engine/disk/bulk_io.h"
#include "transport/ucx/ucx.h"

namespace kvlink::cli {
namespace {

constexpr int64_t kDefaultMemory = int64_t{1} << 30;  // --memory of most commands

std::string Size(int64_t bytes) { return FormatBytes(static_cast<double>(bytes)); }

Finding Processors() {
  const int usable = AvailableProcessors();
  const int64_t online = sysconf(_SC_NPROCESSORS_ONLN);
  Finding finding{"processors", absl::StrCat(usable, " of ", online)};
  finding.effect = "one thread of computation for each (--threads)";
  const double time = ReadCgroupLimits().processors;
  if (usable < online && time > 0) {
    finding.mend = absl::StrCat("the control group may have the time of ", time, "; raise cpu.max (docker --cpus)");
  } else if (usable < online) {
    finding.mend = "the process may run on these alone (taskset, cpuset)";
  }
  return finding;
}

// Of a list like "0-1,3".
int64_t CountOfList(absl::string_view list) {
  int64_t count = 0;
  for (const absl::string_view range : absl::StrSplit(list, ',', absl::SkipEmpty())) {
    const std::vector<absl::string_view> ends = absl::StrSplit(range, '-');
    int64_t first = 0, last = 0;
    if (absl::SimpleAtoi(ends.front(), &first) && absl::SimpleAtoi(ends.back(), &last)) count += last - first + 1;
  }
  return count;
}

Finding NumaNodes() {
  const int64_t nodes = std::max<int64_t>(1, CountOfList(SystemLine("/sys/devices/system/node/online")));
  Finding finding{"numa_nodes", absl::StrCat(nodes)};
  if (nodes == 1) {
    finding.effect = "all memory is equally near";
    return finding;
  }
  finding.health = Health::kWarning;
  finding.effect = "memory of another node is slower, and threads are not bound to theirs";
  finding.mend = "a process for each node: numactl --cpunodebind=N --membind=N kvlink ...";
  return finding;
}

Finding Memory() {
  const int64_t all = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  const int64_t available = AvailableMemory(), limit = ReadCgroupLimits().memory;
  Finding finding{"memory", absl::StrCat(Size(all), ", ", Size(available), " available")};
  if (limit > 0) absl::StrAppend(&finding.value, ", limited to ", Size(limit), " by the control group");
  finding.effect = "for the model, and for encodings (--memory)";
  if (available >= kDefaultMemory) return finding;
  finding.health = Health::kWarning;
  finding.effect = absl::StrCat("commands take up to ", Size(kDefaultMemory), " for encodings unless told otherwise");
  finding.mend = "give --memory, free memory, or raise memory.max (docker --memory)";
  return finding;
}

Finding HugePages() {
  const std::string path = "/sys/kernel/mm/transparent_hugepage/enabled";
  const std::string line = SystemLine(path);  // "always [madvise] never"
  const size_t begin = line.find('['), end = line.find(']');
  Finding finding{"huge_pages", "unknown"};
  if (begin != std::string::npos && end != std::string::npos) finding.value = line.substr(begin + 1, end - begin - 1);
  if (finding.value == "always" || finding.value == "madvise") {
    finding.effect = "weights and encodings lie in pages of 2 MiB";
    return finding;
  }
  finding.health = Health::kWarning;
  finding.effect = "small pages: computing waits more often for addresses, and writes to disk take a third longer";
  finding.mend = absl::StrCat("echo madvise > ", path);
  return finding;
}

// Opens a ring and registers a piece of memory, as a store does.
Finding IoUring() {
  constexpr int64_t kPiece = int64_t{64} << 20;
  Finding finding{"io_uring", "allowed"};
  const auto ring = engine::NewUringIo({.all = 1, .bulk = 1, .bulk_beside_reads = 1});
  if (!ring.ok()) {
    const std::string disabled = SystemLine("/proc/sys/kernel/io_uring_disabled");
    finding.value = absl::StrCat("refused (", ring.status().message(),
                                 disabled.empty() ? "" : ", kernel.io_uring_disabled is ", disabled, ")");
    finding.health = Health::kWarning;
    finding.effect = "a store reads and writes on threads, a few requests at a time";
    finding.mend = disabled.empty() || disabled == "0"
                       ? "allow the io_uring calls in the container's seccomp profile, or use Linux 5.19 or later"
                       : "sysctl kernel.io_uring_disabled=0";
    return finding;
  }
  const std::unique_ptr<void, void (*)(void*)> memory(std::aligned_alloc(kPiece, kPiece), std::free);
  if (memory != nullptr) {
    (*ring)->DeclareMemory(kPiece, 1);
    (*ring)->ChunkReady(0, static_cast<std::byte*>(memory.get()));
  }
  finding.effect = "a store reads and writes many requests at a time, in registered memory";
  const std::string found = (*ring)->Describe();
  if (memory != nullptr) (*ring)->ChunkLeaves(0);
  if (!absl::StrContains(found, "without")) return finding;
  finding.value = found;
  finding.health = Health::kWarning;
  finding.effect = "the kernel looks up the pages of every request";
  finding.mend = "ulimit -l unlimited (systemd: LimitMEMLOCK=infinity)";
  return finding;
}

std::string LimitText(rlim_t limit, bool bytes) {
  if (limit == RLIM_INFINITY) return "unlimited";
  return bytes ? Size(static_cast<int64_t>(limit)) : absl::StrCat(limit);
}

Finding LockedMemory() {
  rlimit limit{};
  getrlimit(RLIMIT_MEMLOCK, &limit);
  Finding finding{"locked_memory", LimitText(limit.rlim_cur, /*bytes=*/true)};
  finding.effect = "what io_uring and RDMA may register (root: anything)";
  if (limit.rlim_cur >= static_cast<rlim_t>(kDefaultMemory) || geteuid() == 0) return finding;
  finding.health = Health::kWarning;
  finding.effect = "less than a store's memory: io_uring and RDMA may not register it, and do without or fail";
  finding.mend = "ulimit -l unlimited (systemd: LimitMEMLOCK=infinity)";
  return finding;
}

Finding OpenFiles() {
  constexpr rlim_t kFew = 4096;
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  Finding finding{"open_files", LimitText(limit.rlim_max, /*bytes=*/false)};
  finding.effect = "connections, and namespaces of a node: processes raise their limit to this";
  if (limit.rlim_max >= kFew) return finding;
  finding.health = Health::kWarning;
  finding.effect = "a node serves few clients and namespaces: each takes one or more";
  finding.mend = "ulimit -Hn 1048576 (systemd: LimitNOFILE=infinity)";
  return finding;
}

Finding SharedMemory() {
  constexpr int64_t kLittle = int64_t{32} << 20;
  struct statvfs info {};
  Finding finding{"shared_memory", "no /dev/shm"};
  if (statvfs("/dev/shm", &info) == 0) {
    const int64_t bytes = static_cast<int64_t>(info.f_blocks) * static_cast<int64_t>(info.f_frsize);
    finding.value = absl::StrCat("/dev/shm of ", Size(bytes));
    finding.effect = "UCX between processes of this host";
    if (bytes >= kLittle) return finding;
  }
  finding.health = Health::kWarning;
  finding.effect = "UCX between processes of this host is slower or fails";
  finding.mend = "mount -o remount,size=1G /dev/shm (docker --shm-size 1g)";
  return finding;
}

Finding Ucx() {
  Finding finding{"ucx", ""};
  const auto ucx = transport::DescribeUcx();
  if (!ucx.ok()) {
    finding.value = std::string(ucx.status().message());
    finding.health = Health::kWarning;
    finding.effect = "encodings travel over gRPC or mapped memory";
    finding.mend = "look at UCX_TLS and UCX_NET_DEVICES in the environment";
    return finding;
  }
  finding.value = absl::StrCat(ucx->version, " with ", absl::StrJoin(ucx->resources, ", "));
  const bool rdma = std::any_of(ucx->resources.begin(), ucx->resources.end(), [](const std::string& resource) {
    return absl::StartsWith(resource, "rc") || absl::StartsWith(resource, "dc") || absl::StartsWith(resource, "ud");
  });
  finding.effect = rdma ? "RDMA: encodings cross the network without the processor"
                        : "no RDMA: encodings cross the network through the kernel's TCP";
  if (ucx->reaches_cuda) absl::StrAppend(&finding.effect, ", and reach a GPU directly");
  return finding;
}

}  // namespace

int64_t AvailableMemory() {
  int64_t kibibytes = 0;
  const std::string text = SystemLine("/proc/meminfo", "MemAvailable:");
  int64_t bytes = static_cast<int64_t>(sysconf(_SC_AVPHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  if (absl::SimpleAtoi(absl::StripSuffix(text, " kB"), &kibibytes)) bytes = kibibytes << 10;
  const int64_t limit = ReadCgroupLimits().memory;
  return limit > 0 ? std::min(bytes, limit) : bytes;
}

std::vector<Finding> ExamineHost() {
  return {Processors(),   NumaNodes(), Memory(),       HugePages(), IoUring(),
          LockedMemory(), OpenFiles(), SharedMemory(), Ucx()};
}

}  // namespace kvlink::cli
