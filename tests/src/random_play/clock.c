/* Shifts the wall clock of a process that loads it before the C library.
   The shift is the signed 64-bit number of seconds in the file CLOCK_FILE, read at each call.
   Other clocks, the monotonic one among them, are not shifted. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile long long *off;

__attribute__((constructor)) static void find(void) {
    const char *name = getenv("CLOCK_FILE");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    void *mapped = file < 0 ? MAP_FAILED : mmap(0, sizeof *off, PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) off = mapped;
    if (file >= 0) close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int status = (int) syscall(SYS_clock_gettime, clock, now);
    if (status == 0 && off && clock == CLOCK_REALTIME) now->tv_sec += *off;
    return status;
}
