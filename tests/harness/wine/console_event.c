/* console_event NAME.exe NUMBER: tells the programs of that name of an event of their console, as Windows itself does:
   by a thread in the program. GenerateConsoleCtrlEvent has Ctrl-C and Ctrl-Break only; a closed console is number 2. */

#include <stdlib.h>
#include <string.h>
#include <windows.h>
#include <tlhelp32.h>

int main(int count, char **arguments)
{
    if (count != 3)
        return 2;
    void *event = (void *)(ULONG_PTR)atoi(arguments[2]);
    void *routine = (void *)GetProcAddress(GetModuleHandleA("kernelbase.dll"), "CtrlRoutine");
    HANDLE programs = CreateToolhelp32Snapshot(TH32CS_SNAPPROCESS, 0);
    PROCESSENTRY32 program = {.dwSize = sizeof program};
    int told = 0;
    for (BOOL more = Process32First(programs, &program); more; more = Process32Next(programs, &program)) {
        if (strcmp(program.szExeFile, arguments[1]) != 0)
            continue;
        HANDLE process = OpenProcess(PROCESS_ALL_ACCESS, FALSE, program.th32ProcessID);
        told += CreateRemoteThread(process, NULL, 0, routine, event, 0, NULL) != NULL;
    }
    return told == 0;
}
