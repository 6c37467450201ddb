#!/bin/sh
# tools/cmake as projects use it: FetchContent in a project of C++ alone, the program by itself, and find_package of what was installed.
# The portable kernels, which compile quickly.
set -u
cd "$(dirname "$0")/.." || exit 1
root=$PWD
work=${BUILD:-build}/test_cmake
passed=0 failed=0
if ! command -v cmake >/dev/null 2>&1; then
  echo "SKIP cmake: cmake is not installed"
  echo "0 passed, 0 failed, 1 skipped"
  exit 0
fi
rm -rf "$work"
mkdir -p "$work/with space/cxx" "$work/with space/user"
cd "$work/with space" || exit 1
step() { # LABEL COMMAND...
  label=$1
  shift
  if "$@" >log 2>&1; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAIL $label:"
    tail -n 15 log
  fi
}
cat >main.cpp <<'END'
#include <agf.h>
#include <cstdio>
int main() { return std::printf("agf %s\n", agf_version()) > 0 && agf_method_find("agf") == AGF_METHOD_AGF ? 0 : 1; }
END
cp main.cpp cxx/ && cp main.cpp user/
cat >cxx/CMakeLists.txt <<END
cmake_minimum_required(VERSION 3.18)
project(only_cxx LANGUAGES CXX)
include(FetchContent)
FetchContent_Declare(agf SOURCE_DIR "$root" SOURCE_SUBDIR tools/cmake)
FetchContent_MakeAvailable(agf)
add_executable(use main.cpp)
target_link_libraries(use PRIVATE agf::agf)
get_property(languages GLOBAL PROPERTY ENABLED_LANGUAGES)
if("C" IN_LIST languages)
  message(FATAL_ERROR "a project of C++ alone got a C compiler")
endif()
END
cat >user/CMakeLists.txt <<'END'
cmake_minimum_required(VERSION 3.14)
project(user LANGUAGES CXX)
find_package(agf 1.0 REQUIRED)
add_executable(use main.cpp)
target_link_libraries(use PRIVATE agf::agf)
END
quick='-O1 -DAGF_NO_SIMD'
step 'FetchContent, C++ alone: configure' cmake -S cxx -B cxx/build -DCMAKE_CXX_FLAGS="$quick"
step 'FetchContent, C++ alone: build' cmake --build cxx/build
step 'FetchContent, C++ alone: run' cxx/build/use
step 'alone: configure' cmake -S "$root/tools/cmake" -B alone -DCMAKE_C_FLAGS="$quick" -DBUILD_SHARED_LIBS=ON "-DCMAKE_INSTALL_PREFIX=$PWD/installed"
step 'alone: build' cmake --build alone
step 'alone: install' cmake --install alone
if [ -x alone/agf ]; then step 'alone: the program' alone/agf --version; fi
step 'find_package: configure' cmake -S user -B user/build "-DCMAKE_PREFIX_PATH=$PWD/installed"
step 'find_package: build' cmake --build user/build
step 'find_package: run' user/build/use
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
