/* Preloaded into one worker: its wall clock is off by the seconds written in the file $CHAOS_CLOCK, now and at any
 * time later. Only reading the clock is changed; sleeping and monotonic time stay right, as when somebody sets the clock.
 * Needs no header and no libc at link time, so that tcc alone can build it.
 */
typedef long time_t;
struct timespec { time_t tv_sec; long tv_nsec; };
struct timeval { time_t tv_sec; long tv_usec; };

extern long syscall(long number, ...);
extern char *getenv(const char *name);

#if defined(__x86_64__)
enum { READ = 0, OPEN_AT = 257, CLOSE = 3, CLOCK_GETTIME = 228 };
#elif defined(__aarch64__)
enum { READ = 63, OPEN_AT = 56, CLOSE = 57, CLOCK_GETTIME = 113 };
#endif
enum { AT_FDCWD = -100, CLOCK_REALTIME = 0, CLOCK_REALTIME_COARSE = 5 };

static long offset_s(void)
{
    char text[32];
    const char *path = getenv("CHAOS_CLOCK");
    long file = path ? syscall(OPEN_AT, AT_FDCWD, path, 0) : -1, size, value = 0, at = 0;
    if (file < 0)
        return 0;
    size = syscall(READ, file, text, sizeof text);
    syscall(CLOSE, file);
    if (size > 0 && (text[0] == '-' || text[0] == '+'))
        at = 1;
    for (; at < size && text[at] >= '0' && text[at] <= '9'; at++)
        value = 10 * value + (text[at] - '0');
    return size > 0 && text[0] == '-' ? -value : value;
}

int clock_gettime(int clock, struct timespec *now)
{
    long failed = syscall(CLOCK_GETTIME, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += offset_s();
    return failed ? -1 : 0;
}

int gettimeofday(struct timeval *now, void *zone)
{
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result)
{
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (result)
        *result = exact.tv_sec;
    return exact.tv_sec;
}
