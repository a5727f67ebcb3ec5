/* bcryptprimitives.dll, which wine 8 does not have and every Rust program for Windows asks for its random numbers. */

__declspec(dllimport) unsigned char __stdcall SystemFunction036(void *to, unsigned long length); /* RtlGenRandom */

__declspec(dllexport) int __stdcall ProcessPrng(unsigned char *to, unsigned long long length)
{
    return SystemFunction036(to, (unsigned long)length);
}
