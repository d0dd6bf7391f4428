// Limits of control groups, in trees of files as systems have them.
#include "base/system/cgroup.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/system/system_line.h"
#include "base/thread.h"
#include "tests/support/scratch_directory.h"

namespace kvlink {
namespace {

class CgroupTest : public ::testing::Test {
 protected:
  void Write(const std::string& name, const std::string& text) const {
    const std::filesystem::path path = directory_.path() + name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  CgroupLimits Read() const { return ReadCgroupLimits(directory_.path()); }

  testing::ScratchDirectory directory_;
};

TEST_F(CgroupTest, Version2HasTheLowestLimitOnTheWayUp) {
  Write("/proc/self/cgroup", "0::/pod/container\n");
  Write("/sys/fs/cgroup/pod/container/cpu.max", "max 100000\n");
  Write("/sys/fs/cgroup/pod/container/memory.max", "4294967296\n");
  Write("/sys/fs/cgroup/pod/cpu.max", "250000 100000\n");
  Write("/sys/fs/cgroup/pod/memory.max", "1073741824\n");
  EXPECT_EQ(Read().processors, 2.5);
  EXPECT_EQ(Read().memory, int64_t{1} << 30);
  Write("/sys/fs/cgroup/pod/container/cpu.max", "50000 100000\n");
  EXPECT_EQ(Read().processors, 0.5);
}

TEST_F(CgroupTest, AContainersOwnGroupIsTheMount) {
  Write("/proc/self/cgroup", "0::/system.slice/docker-1234.scope\n");  // of the host, not mounted here
  Write("/sys/fs/cgroup/cpu.max", "300000 100000\n");
  Write("/sys/fs/cgroup/memory.max", "max\n");
  EXPECT_EQ(Read().processors, 3);
  EXPECT_EQ(Read().memory, 0);
}

TEST_F(CgroupTest, Version1HasAFileForEach) {
  Write("/proc/self/cgroup", "4:memory:/a\n2:cpuacct,cpu:/a\n1:name=systemd:/\n0::/\n");
  Write("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "536870912\n");
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");  // none
  Write("/sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "-1\n");
  Write("/sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(Read().processors, 0);
  EXPECT_EQ(Read().memory, 512 << 20);
  Write("/sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "150000\n");
  EXPECT_EQ(Read().processors, 1.5);
}

TEST_F(CgroupTest, WhatCannotBeReadLimitsNothing) {
  EXPECT_EQ(Read().processors, 0);
  EXPECT_EQ(Read().memory, 0);
  Write("/proc/self/cgroup", "nonsense\n0::\n:::\n");
  Write("/sys/fs/cgroup/cpu.max", "1 0\n");
  Write("/sys/fs/cgroup/memory.max", "\xff\n");
  EXPECT_EQ(Read().processors, 0);
  EXPECT_EQ(Read().memory, 0);
  EXPECT_GE(AvailableProcessors(), 1);
}

TEST_F(CgroupTest, LinesOfTheSystem) {
  Write("/meminfo", "MemTotal:  7 kB\nMemFree:  5 kB \nEmpty:\n");
  EXPECT_EQ(SystemLine(directory_.path() + "/meminfo"), "MemTotal:  7 kB");
  EXPECT_EQ(SystemLine(directory_.path() + "/meminfo", "MemFree:"), "5 kB");
  EXPECT_EQ(SystemLine(directory_.path() + "/meminfo", "Empty:"), "");
  EXPECT_EQ(SystemLine(directory_.path() + "/meminfo", "Nothing:"), "");
  EXPECT_EQ(SystemLine(directory_.path() + "/nothing"), "");
}

}  // namespace
}  // namespace kvlink
